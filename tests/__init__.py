"""Tests of gpuq, one file per module of gpuq/; tests/peers compares with other runtimes."""
