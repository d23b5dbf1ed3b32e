/* Included before every C++ file of llama.cpp (the compiler's `-include`).

   The `_tile_loadconfig` of GCC before 11.5, 12.4, 13.3 and 14 tells the compiler that `ldtilecfg` reads the first 8 of
   its 64 bytes (GCC's bug 114098). The rest of the configuration is then optimised away, and the first AMX instruction
   ends the process with SIGILL. This one names all 64; where the compiler is right already it changes nothing. */
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

static inline __attribute__((always_inline)) void llmserve_load_tile_config(const void *config) {
    __asm__ volatile("ldtilecfg\t%X0" : : "m"(*(const char(*)[64])config));
}

#define _tile_loadconfig llmserve_load_tile_config
#endif
