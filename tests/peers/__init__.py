"""Real TFLite runtimes beside gpuq: what they compute is what gpuq must compute, bit for bit."""
