// CUDA's vector types, with the alignment they have on the device: a 16-byte load through a pointer that is
// no multiple of 16 is an error there, and UBSan reports it here.

#pragma once

#define GPUQ_VECTOR2(name, type, alignment) \
  struct alignas(alignment) name {          \
    type x, y;                              \
  };                                        \
  inline name make_##name(type x, type y) { return name{x, y}; }
#define GPUQ_VECTOR3(name, type) \
  struct name {                  \
    type x, y, z;                \
  };                             \
  inline name make_##name(type x, type y, type z) { return name{x, y, z}; }
#define GPUQ_VECTOR4(name, type, alignment) \
  struct alignas(alignment) name {          \
    type x, y, z, w;                        \
  };                                        \
  inline name make_##name(type x, type y, type z, type w) { return name{x, y, z, w}; }

GPUQ_VECTOR2(char2, signed char, 2)
GPUQ_VECTOR2(uchar2, unsigned char, 2)
GPUQ_VECTOR2(short2, short, 4)
GPUQ_VECTOR2(ushort2, unsigned short, 4)
GPUQ_VECTOR2(int2, int, 8)
GPUQ_VECTOR2(uint2, unsigned, 8)
GPUQ_VECTOR2(longlong2, long long, 16)
GPUQ_VECTOR2(ulonglong2, unsigned long long, 16)
GPUQ_VECTOR2(float2, float, 8)
GPUQ_VECTOR2(double2, double, 16)

GPUQ_VECTOR3(char3, signed char)
GPUQ_VECTOR3(uchar3, unsigned char)
GPUQ_VECTOR3(int3, int)
GPUQ_VECTOR3(uint3, unsigned)
GPUQ_VECTOR3(float3, float)

GPUQ_VECTOR4(char4, signed char, 4)
GPUQ_VECTOR4(uchar4, unsigned char, 4)
GPUQ_VECTOR4(short4, short, 8)
GPUQ_VECTOR4(ushort4, unsigned short, 8)
GPUQ_VECTOR4(int4, int, 16)
GPUQ_VECTOR4(uint4, unsigned, 16)
GPUQ_VECTOR4(float4, float, 16)

#undef GPUQ_VECTOR2
#undef GPUQ_VECTOR3
#undef GPUQ_VECTOR4

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
