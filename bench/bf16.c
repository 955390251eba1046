/* What one core can do with its fp32 and its bf16 multiply-add, without any library: is a slow bf16 matmul the library's fault or the processor's?

     gcc -O2 -funroll-loops -mavx512f -mavx512bf16 bench/bf16.c -o /tmp/bf16 && /tmp/bf16

   Twelve independent sums keep the unit full. One fp32 instruction (VFMADD) is 16 multiply-adds, one bf16 instruction (VDPBF16PS) is 32. */

#include <immintrin.h>
#include <stdio.h>
#include <time.h>

enum { SUMS = 12, ROUNDS = 30000000 };

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

int main(void) {
    __m512 sums[SUMS], x = _mm512_set1_ps(1e-9f);
    __m512bh pairs = (__m512bh)x;
    for (int i = 0; i < SUMS; i++) sums[i] = _mm512_set1_ps(i); /* all different, so that none is left out */

    double start = seconds();
    for (long round = 0; round < ROUNDS; round++)
        for (int i = 0; i < SUMS; i++) sums[i] = _mm512_fmadd_ps(x, x, sums[i]);
    double fp32 = (double)ROUNDS * SUMS / (seconds() - start) / 1e9;

    start = seconds();
    for (long round = 0; round < ROUNDS; round++)
        for (int i = 0; i < SUMS; i++) sums[i] = _mm512_dpbf16_ps(sums[i], pairs, pairs);
    double bf16 = (double)ROUNDS * SUMS / (seconds() - start) / 1e9;

    printf("fp32 %.2f instructions a ns, %.0f GFLOP/s\nbf16 %.2f instructions a ns, %.0f GFLOP/s\n", fp32, fp32 * 32, bf16, bf16 * 64);
    float last[16], total = 0;
    for (int i = 0; i < SUMS; i++) {
        _mm512_storeu_ps(last, sums[i]);
        total += last[0];
    }
    return total < 0; /* the sums are used, so the loops must run */
}
