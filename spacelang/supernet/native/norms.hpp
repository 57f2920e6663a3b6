// Batch norms: statistics, gradients, and running statistics.
#pragma once
#include <algorithm>
#include <cmath>

#include "call.hpp"

// Mean of every channel of one image, and the sum of squares around it; (2, P).
template <class T> static void image_moments(const T* y, const Sizes<T>& sizes, double* moments) {
    const int64_t P = sizes.P, M = sizes.pixels;
    Array<T> mean(P);
    std::fill(moments, moments + 2 * P, 0.0);
    for (int pass = 0; pass < 2; pass++) {
        double* totals = moments + pass * P;
        for (int64_t first = 0; first < M; first += PARTIAL)
            for (int64_t c = 0; c < P; c += Lanes<T>::count) {
                const V<T> centre = load(&mean[c]);
                V<T> part[4] = {zero<T>(), zero<T>(), zero<T>(), zero<T>()};
                in_fours(first, std::min<int64_t>(first + PARTIAL, M), [&](int64_t m, int u) {
                    const V<T> value = load(y + m * P + c) - centre;
                    part[u] += pass ? value * value : value;
                });
                add_to<T>(totals + c, (part[0] + part[1]) + (part[2] + part[3]));
            }
        if (!pass) for (int64_t c = 0; c < P; c++) mean[c] = (T)(totals[c] /= M);
    }
}

// Mean, 1 / sqrt(var + eps) and variance of every channel, from the moments of all images; var without correction.
template <class T> static void batch_statistics(const Call& call, const Sizes<T>& sizes, int64_t block, const double* moments, T* statistics) {
    const int64_t P = sizes.P;
    for (int64_t c = 0; c < P; c++) {
        double mean = 0, squares = 0;
        for (int64_t n = 0; n < call.N; n++) mean += moments[n * 2 * P + c];
        mean /= call.N;
        for (int64_t n = 0; n < call.N; n++) {
            const double apart = moments[n * 2 * P + c] - mean;
            squares += moments[n * 2 * P + P + c] + sizes.pixels * apart * apart;
        }
        const double variance = squares / ((double)call.N * sizes.pixels);
        statistics[c] = (T)mean;
        statistics[P + c] = (T)(1 / std::sqrt(variance + call.eps[block]));
        statistics[2 * P + c] = (T)variance;
    }
}

template <class T> static void running_statistics(const Call& call, const Sizes<T>& sizes, int64_t block, T* statistics) {
    const T *mean = (const T*)call.running_mean[block], *var = (const T*)call.running_var[block];
    std::fill(statistics, statistics + 3 * sizes.P, (T)0);  // also of the padding, whose numbers must not be NaN
    for (int64_t c = 0; c < call.C; c++) {
        statistics[c] = mean[c];
        statistics[sizes.P + c] = (T)(1 / std::sqrt((double)var[c] + call.eps[block]));
        statistics[2 * sizes.P + c] = var[c];
    }
}

// For each channel of one image: sum of g, and of g times the normalised y; (2, P). With MASKED, g is that of a ReLU of
// y, normalised, and becomes that of y.
template <class T, bool MASKED, class G>
static void gradient_sums(G* g, const T* y, const T* statistics, const Sizes<T>& sizes, double* sums) {
    const int64_t P = sizes.P, M = sizes.pixels;
    std::fill(sums, sums + 2 * P, 0.0);
    for (int64_t first = 0; first < M; first += PARTIAL)
        for (int64_t c = 0; c < P; c += Lanes<T>::count) {
            const V<T> mean = load(statistics + c);
            V<T> plain[4] = {zero<T>(), zero<T>(), zero<T>(), zero<T>()};
            V<T> weighted[4] = {zero<T>(), zero<T>(), zero<T>(), zero<T>()};
            in_fours(first, std::min<int64_t>(first + PARTIAL, M), [&](int64_t m, int u) {
                const V<T> read = load(y + m * P + c);
                V<T> value = load<T>(g + m * P + c);
                if constexpr (MASKED) store(g + m * P + c, value = read <= mean ? zero<T>() : value);
                plain[u] += value;
                weighted[u] += value * (read - mean);
            });
            add_to<T>(sums + c, (plain[0] + plain[1]) + (plain[2] + plain[3]));
            add_to<T>(sums + P + c, (weighted[0] + weighted[1]) + (weighted[2] + weighted[3]));
        }
    for (int64_t c = 0; c < P; c++) sums[P + c] *= statistics[P + c];
}

// Gradient of a batch norm's input, one image: weight g / s, less what the batch's mean and variance take back.
template <class T>
static void norm_backward(const T* g, const T* y, const T* statistics, T weight, const double* totals, double count,
                          bool of_batch, const Sizes<T>& sizes, T* grad_y) {
    const int64_t P = sizes.P;
    Array<T> slopes(P), offsets(P);
    if (of_batch)
        for (int64_t c = 0; c < P; c++) {
            slopes[c] = (T)(-totals[P + c] / count) * statistics[P + c];
            offsets[c] = (T)(-totals[c] / count);
        }
    for (int64_t first = 0; first < sizes.pixels; first += PARTIAL)
        for (int64_t c = 0; c < P; c += Lanes<T>::count) {
            const V<T> mean = load(statistics + c), inverse = load(statistics + P + c);
            const V<T> slope = load(&slopes[c]), offset = load(&offsets[c]);
            // 1 / s is multiplied last: rounded into the factors one by one, it would leave a sum that is not zero.
            for (int64_t m = first; m < std::min<int64_t>(first + PARTIAL, sizes.pixels); m++) {
                const V<T> apart = load(y + m * P + c) - mean;
                store(grad_y + m * P + c, inverse * (load(g + m * P + c) * weight + (slope * apart + offset)));
            }
        }
}

template <class T>
static void update(int64_t norms, int64_t C, const T* found, void* const* running, void* const* counts, const double* momenta, int64_t count) {
    const int64_t P = padded<T>(C);
    for (int64_t b = 0; b < norms; b++) {
        T *mean = (T*)running[2 * b], *var = (T*)running[2 * b + 1];
        const T *m = found + b * 3 * P, *v = m + 2 * P;
        const T weight = (T)momenta[b], correction = (T)((double)count / (count - 1));
        for (int64_t c = 0; c < C; c++) {
            mean[c] += weight * (m[c] - mean[c]);
            var[c] += weight * (v[c] * correction - var[c]);
        }
        *(int64_t*)counts[b] += 1;
    }
}
