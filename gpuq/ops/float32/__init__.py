"""Float32 operators of the networks around quantized ones: the reference kernels' order of operations, in float32."""
