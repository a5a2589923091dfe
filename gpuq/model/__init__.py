"""Whole networks: bytes -> Graph (tflite_reader) -> Program (planner) -> results (executor)."""
