// Weighted sums of chains and features, and their gradients.
#pragma once
#include <algorithm>
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
    for (int64_t f = 0; f < call.pools; f++) add(call.chain_start[call.chains] + f, mix_of<T>(call, call.term(edge, f), n));
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
        const T weight = mix_of<T>(call, call.term(edge, f), n);
        const T* feature = (const T*)call.given[f - call.pools] + n * count;
        for (int64_t i = 0; i < count; i++) out[i] += weight * feature[i];
    }
}

// Of EDGES edges that add a feature, one image of `count` numbers: their part of the feature's gradient, in `to` or
// added to it, and the gradients of its weights. Everything is read once.
template <class T, int EDGES>
static void feature_gradients(const T* const* grads, const T* weights, const T* feature, int64_t count, bool add, T* to, double* of_weights) {
    const int L = Lanes<T>::count;
    for (int64_t first = 0; first < count; first += PARTIAL * L) {
        const int64_t end = std::min<int64_t>(first + PARTIAL * L, count);
        V<T> products[EDGES];
        for (int e = 0; e < EDGES; e++) products[e] = zero<T>();
        int64_t i = first;
        for (; i + L <= end; i += L) {
            const V<T> value = load(feature + i);
            V<T> sum = add ? load(to + i) : zero<T>();
#pragma GCC unroll 4
            for (int e = 0; e < EDGES; e++) {
                const V<T> grad = load(grads[e] + i);
                products[e] += grad * value;
                sum += grad * weights[e];
            }
            store(to + i, sum);
        }
        for (int e = 0; e < EDGES; e++) for (int l = 0; l < L; l++) of_weights[e] += products[e][l];
        for (; i < end; i++) {
            T sum = add ? to[i] : 0;
            for (int e = 0; e < EDGES; e++) of_weights[e] += grads[e][i] * feature[i], sum += grads[e][i] * weights[e];
            to[i] = sum;
        }
    }
}

// Gradient of feature f, image n, (pixels, C), into `to`; and of its weights, if they are wanted.
template <class T>
static void feature_backward(const Call& call, const Sizes<T>& sizes, int64_t f, int64_t n, const T* feature, T* to) {
    const int64_t count = sizes.pixels * call.C;
    std::vector<const T*> grads;
    std::vector<T> weights;
    std::vector<double> of_weights(call.edges, 0.0);
    for (int64_t e = 0; e < call.edges; e++) {
        grads.push_back((const T*)call.grad_out[e] + n * count);
        weights.push_back(mix_of<T>(call, call.term(e, f), n));
    }
    int64_t e = 0;
    for (; e + 4 <= call.edges; e += 4) feature_gradients<T, 4>(&grads[e], &weights[e], feature, count, e > 0, to, &of_weights[e]);
    for (; e < call.edges; e++) feature_gradients<T, 1>(&grads[e], &weights[e], feature, count, e > 0, to, &of_weights[e]);
    if (call.grad_mix)
        for (e = 0; e < call.edges; e++) ((T*)call.grad_mix)[call.term(e, f) * call.N + n] = (T)of_weights[e];
}

// Gradients of the given features, image n, and of their weights.
template <class T> static void given_backward(const Call& call, const Sizes<T>& sizes, int64_t n) {
    if (!call.grad_given && !call.grad_mix) return;
    const int64_t count = sizes.pixels * call.C;
    Array<T> unwanted(call.grad_given ? 0 : count);
    for (int64_t f = call.pools; f < call.features; f++) {
        T* to = call.grad_given ? (T*)call.grad_given[f - call.pools] + n * count : unwanted.data();
        feature_backward(call, sizes, f, n, (const T*)call.given[f - call.pools] + n * count, to);
    }
}
