// Bytes that are moved together, as a type.

#pragma once

#include "portable.cuh"

// ITEM      bytes of an item: 1, 2, 4, 8 or 16; all addresses are multiples of it

#if ITEM == 16
typedef int4 Item;
#elif ITEM == 8
typedef int2 Item;
#elif ITEM == 4
typedef int Item;
#elif ITEM == 2
typedef unsigned short Item;
#else
typedef unsigned char Item;
#endif
