// Weighted sums of chains and features, and their gradients.
#pragma once
#include <cstring>

#include "call.hpp"

// out[e], image n: every chain and pool is read once, with its batch norm and its weight as one factor and one shift.
template <class T> static void weighted_sum(const Call& call, const Sizes<T>& sizes, int64_t edge, int64_t n) {
    const int64_t P = sizes.P, C = call.C;
    std::vector<const T*> read;
    Array<T> factors, shift(P), wide(P == C ? 0 : sizes.image);
    const auto add = [&](int64_t block, T weight) {
        const T* statistics = (const T*)call.statistics + block * 3 * P;
        read.push_back((const T*)call.normalised + block * sizes.block + n * sizes.image);
        for (int64_t c = 0; c < P; c++) {
            factors.push_back(weight * statistics[P + c]);
            shift[c] -= factors.back() * statistics[c];
        }
    };
    for (int64_t j = 0; j < call.chains; j++)
        if (call.chain_edge[j] == edge) add(call.chain_start[j + 1] - 1, mix_of<T>(call, j, n));
    const int64_t first = call.chains + edge * call.features;
    for (int64_t f = 0; f < call.pools; f++) add(call.chain_start[call.chains] + f, mix_of<T>(call, first + f, n));
    T* out = (T*)call.out[edge] + n * sizes.pixels * C;
    T* to = P == C ? out : wide.data();
    for (int64_t m = 0; m < sizes.pixels; m++)
        for (int64_t c = 0; c < P; c += Lanes<T>::count) {
            V<T> sum = load(&shift[c]);
            for (std::size_t j = 0; j < read.size(); j++) sum += load(&factors[j * P + c]) * load(read[j] + m * P + c);
            store(to + m * P + c, sum);
        }
    if (P != C) for (int64_t m = 0; m < sizes.pixels; m++) std::memcpy(out + m * C, &wide[m * P], C * sizeof(T));
    const int64_t count = sizes.pixels * C;
    for (int64_t f = call.pools; f < call.features; f++) {
        const T weight = mix_of<T>(call, first + f, n);
        const T* feature = (const T*)call.given[f - call.pools] + n * count;
        for (int64_t i = 0; i < count; i++) out[i] += weight * feature[i];
    }
}

// Gradients of the given features, and of their weights.
template <class T> static void weighted_sum_backward(const Call& call, const Sizes<T>& sizes, int64_t n) {
    const int64_t count = sizes.pixels * call.C;
    for (int64_t f = call.pools; f < call.features; f++) {
        const T* feature = (const T*)call.given[f - call.pools] + n * count;
        T* to = call.grad_given ? (T*)call.grad_given[f - call.pools] + n * count : nullptr;
        for (int64_t e = 0; e < call.edges; e++) {
            const int64_t term = call.chains + e * call.features + f;
            const T weight = mix_of<T>(call, term, n);
            const T* g = (const T*)call.grad_out[e] + n * count;
            if (to && e == 0) for (int64_t i = 0; i < count; i++) to[i] = weight * g[i];
            else if (to) for (int64_t i = 0; i < count; i++) to[i] += weight * g[i];
            if (call.grad_mix) {
                const int L = Lanes<T>::count;
                V<T> part[2] = {zero<T>(), zero<T>()};
                int64_t i = 0;
                for (; i + 2 * L <= count; i += 2 * L)
                    for (int u = 0; u < 2; u++) part[u] += load(g + i + u * L) * load(feature + i + u * L);
                T sum = 0;
                for (; i < count; i++) sum += g[i] * feature[i];
                for (int u = 0; u < 2; u++) for (int l = 0; l < L; l++) sum += part[u][l];
                ((T*)call.grad_mix)[term * call.N + n] = sum;
            }
        }
    }
}
