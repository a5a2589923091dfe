"""Post-training quantization: observers, calibration, float networks to integer ones."""
