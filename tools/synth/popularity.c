/* tools/synth/popularity.c: biases of the gate that make some experts more popular than others. */
#include <math.h>

#include "base/random.h"
#include "synth/synth.h"

#define MOST_OFTEN 0.999 /* no expert takes part in every token */

/* The sum of min(MOST_OFTEN, c (i + 1)^-skew) */
static double sum_for(double c, uint32_t num_experts, double skew)
{
    double sum = 0;
    for (uint32_t i = 0; i < num_experts; i++) sum += fmin(MOST_OFTEN, c * pow(i + 1.0, -skew));
    return sum;
}

/* The c that makes the probabilities sum to top_k. */
static double find_c(uint32_t num_experts, uint32_t top_k, double skew)
{
    double low = 0, high = 1;
    while (sum_for(high, num_experts, skew) < top_k && high < 1e300) high *= 2;
    for (int i = 0; i < 100; i++) {
        double middle = (low + high) / 2;
        *(sum_for(middle, num_experts, skew) < top_k ? &low : &high) = middle;
    }
    return high;
}

/* x with P(N(0, 1) < x) = p, p within 1e-12 of neither end. */
static double normal_quantile(double p)
{
    double low = -8, high = 8;
    for (int i = 0; i < 60; i++) {
        double middle = (low + high) / 2;
        *(erfc(-middle * M_SQRT1_2) / 2 < p ? &low : &high) = middle;
    }
    return high;
}

void fs_synth_popularity(uint32_t num_experts, uint32_t top_k, double skew, uint64_t seed, float *bias)
{
    fs_random random = {seed};
    const bool even = skew == 0 || top_k >= num_experts;
    const double c = even ? 0 : find_c(num_experts, top_k, skew);
    for (uint32_t i = 0; i < num_experts; i++) {
        double p = fmax(1e-12, fmin(MOST_OFTEN, c * pow(i + 1.0, -skew)));
        bias[i] = even ? 0 : (float)normal_quantile(p);
    }
    for (uint32_t i = num_experts - 1; i > 0; i--) {
        uint32_t j = fs_random_below(&random, i + 1);
        float other = bias[j];
        bias[j] = bias[i];
        bias[i] = other;
    }
}
