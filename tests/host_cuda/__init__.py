"""Runs the kernels of kernels_cuda/ on the CPU, thread for thread, under ASan and UBSan."""
