// Products of matrices, which 1x1 convolutions are.
#pragma once
#include <algorithm>

#include "vectors.hpp"

template <class T, int ROWS, int VECTORS>
static inline void product_tile(const T* a, const T* b, T* y, int64_t P) {
    V<T> sum[ROWS][VECTORS];
    for (int t = 0; t < ROWS; t++) for (int j = 0; j < VECTORS; j++) sum[t][j] = zero<T>();
    for (int64_t k = 0; k < P; k++) {
        V<T> right[VECTORS];
        for (int j = 0; j < VECTORS; j++) right[j] = load(b + k * P + j * Lanes<T>::count);
#pragma GCC unroll 12
        for (int t = 0; t < ROWS; t++)
            for (int j = 0; j < VECTORS; j++) sum[t][j] += right[j] * a[t * P + k];
    }
    for (int t = 0; t < ROWS; t++)
        for (int j = 0; j < VECTORS; j++) store(y + t * P + j * Lanes<T>::count, sum[t][j]);
}

template <class T, int VECTORS>
static void product_columns(const T* a, int64_t M, const T* b, T* y, int64_t P) {
    int64_t m = 0;
    for (; m + TILE <= M; m += TILE) product_tile<T, TILE, VECTORS>(a + m * P, b, y + m * P, P);
    for (; m + 4 <= M; m += 4) product_tile<T, 4, VECTORS>(a + m * P, b, y + m * P, P);
    for (; m < M; m++) product_tile<T, 1, VECTORS>(a + m * P, b, y + m * P, P);
}

// y = a b; a, y (M, P), b (P, P).
template <class T> static void product(const T* a, int64_t M, const T* b, T* y, int64_t P) {
    const int L = Lanes<T>::count;
    int64_t c = 0;
    for (; c + 2 * L <= P; c += 2 * L) product_columns<T, 2>(a, M, b + c, y + c, P);
    if (c < P) product_columns<T, 1>(a, M, b + c, y + c, P);
}

template <class T, int ROWS, int VECTORS>
static inline void product_transposed_tile(const T* a, const T* g, int64_t M, T* w, int64_t P) {
    V<T> sum[ROWS][VECTORS];
    for (int t = 0; t < ROWS; t++)
        for (int j = 0; j < VECTORS; j++) sum[t][j] = zero<T>();
    for (int64_t m = 0; m < M; m++) {
        V<T> right[VECTORS];
        for (int j = 0; j < VECTORS; j++) right[j] = load(g + m * P + j * Lanes<T>::count);
#pragma GCC unroll 12
        for (int t = 0; t < ROWS; t++)
            for (int j = 0; j < VECTORS; j++) sum[t][j] += right[j] * a[m * P + t];
    }
    for (int t = 0; t < ROWS; t++)
        for (int j = 0; j < VECTORS; j++) {
            T* to = w + t * P + j * Lanes<T>::count;
            store(to, load(to) + sum[t][j]);
        }
}

template <class T, int VECTORS>
static void product_transposed_columns(const T* a, const T* g, int64_t M, T* w, int64_t P) {
    int64_t i = 0;
    for (; i + TILE <= P; i += TILE) product_transposed_tile<T, TILE, VECTORS>(a + i, g, M, w + i * P, P);
    for (; i + 4 <= P; i += 4) product_transposed_tile<T, 4, VECTORS>(a + i, g, M, w + i * P, P);
    for (; i + 2 <= P; i += 2) product_transposed_tile<T, 2, VECTORS>(a + i, g, M, w + i * P, P);
}

// w += a^T g; a, g (M, P), w (P, P).
template <class T> static void product_transposed(const T* a, const T* g, int64_t M, T* w, int64_t P) {
    const int L = Lanes<T>::count;
    for (int64_t m = 0; m < M; m += PARTIAL) {
        const int64_t rows = std::min<int64_t>(PARTIAL, M - m);
        int64_t c = 0;
        for (; c + 2 * L <= P; c += 2 * L) product_transposed_columns<T, 2>(a + m * P, g + m * P + c, rows, w + c, P);
        if (c < P) product_transposed_columns<T, 1>(a + m * P, g + m * P + c, rows, w + c, P);
    }
}
