// Pools of x, each with a batch norm behind; all edges add the same ones. Windows end where the image does.
#pragma once
#include <algorithm>
#include <cstring>

#include "norms.hpp"
#include "sums.hpp"

struct Pool {
    int kernel, stride;
    bool is_max;
    Pool(const Call& call, int64_t pool) {
        const int32_t* s = call.pool_shapes + 3 * pool;
        kernel = s[0], stride = s[1], is_max = s[2];
    }
};

// Rows, or columns, of an image that the window of an output covers.
struct Covered {
    int64_t first, end;
    Covered(const Pool& pool, int64_t output, int64_t size) {
        const int64_t start = output * pool.stride - pool.kernel / 2;
        first = std::max<int64_t>(start, 0), end = std::min(start + pool.kernel, size);
    }
    int64_t count() const { return end - first; }
};

// Call work(rows, columns, offset of the output) for the window of every output pixel.
template <class Work> static void for_windows(const Call& call, const Pool& pool, int64_t P, Work work) {
    for (int64_t oy = 0; oy < call.out_H; oy++)
        for (int64_t ox = 0; ox < call.out_W; ox++)
            work(Covered(pool, oy, call.H), Covered(pool, ox, call.W), (oy * call.out_W + ox) * P);
}

// Call work(offset) for the pixels of a window, row by row.
template <class Work> static inline void for_pixels(const Covered& rows, const Covered& columns, int64_t row, int64_t P, Work work) {
    for (int64_t y = rows.first; y < rows.end; y++)
        for (int64_t x = columns.first; x < columns.end; x++) work(y * row + x * P);
}

// Pool an image (H, W, P) into y, (pixels, P).
template <class T> static void pooled(const Call& call, const Pool& pool, const T* x, int64_t P, T* y) {
    for_windows(call, pool, P, [&](const Covered& rows, const Covered& columns, int64_t at) {
        const T count = (T)(rows.count() * columns.count());
        for (int64_t c = 0; c < P; c += Lanes<T>::count) {
            V<T> sum = zero<T>(), most = load(x + rows.first * call.W * P + columns.first * P + c);
            for_pixels(rows, columns, call.W * P, P, [&](int64_t from) {
                const V<T> value = load(x + from + c);
                if (pool.is_max) most = (value > most) | (value != value) ? value : most;  // NaN stays
                else sum += value;
            });
            store(y + at + c, pool.is_max ? most : sum / count);
        }
    });
}

// Add the gradient of a pool's input, (H, W, P), for that of its output; the first of equal maxima has it.
template <class T>
static void pool_scatter(const Call& call, const Pool& pool, const T* x, const T* y, const T* grad, int64_t P, T* grad_x) {
    for_windows(call, pool, P, [&](const Covered& rows, const Covered& columns, int64_t at) {
        const T count = (T)(rows.count() * columns.count());
        for (int64_t c = 0; c < P; c += Lanes<T>::count) {
            const V<T> most = load(y + at + c), share = load(grad + at + c) / count;
            V<T> left = load(grad + at + c);
            for_pixels(rows, columns, call.W * P, P, [&](int64_t to) {
                T* q = grad_x + to + c;
                if (pool.is_max) {
                    const auto found = load(x + to + c) == most;
                    store(q, load(q) + (found ? left : zero<T>()));
                    left = found ? zero<T>() : left;
                } else store(q, load(q) + share);
            });
        }
    });
}

// Image n of x with its channels padded, if they must be.
template <class T> static const T* image_of_x(const Call& call, int64_t P, int64_t n, Array<T>& wide) {
    return widened((const T*)call.x + n * call.H * call.W * call.C, call.H * call.W, call.C, P, wide);
}

template <class T> static void run_pool(const Call& call, const Sizes<T>& sizes, int64_t pool) {
    const int64_t block = call.chain_start[call.chains] + pool, P = sizes.P;
    T* y = (T*)call.normalised + block * sizes.block;
    T* statistics = (T*)call.statistics + block * 3 * P;
    Array<T> wide;
    Array<double> moments(call.N * 2 * P);
    for (int64_t n = 0; n < call.N; n++) {
        pooled(call, Pool(call, pool), image_of_x<T>(call, P, n, wide), P, y + n * sizes.image);
        if (call.batch_statistics) image_moments(y + n * sizes.image, sizes, &moments[n * 2 * P]);
    }
    if (call.batch_statistics) batch_statistics(call, sizes, block, moments.data(), statistics);
    else running_statistics(call, sizes, block, statistics);
}

// What the norms of the pools are handed back: gradients of their outputs, and sums of these.
template <class T> struct PoolGradients {
    Array<T> grads;      // (pools, N, pixels, P)
    Array<double> sums;  // (pools, N, 2, P); then those of the whole batch are at the first image
    PoolGradients(const Call& call, const Sizes<T>& s)
        : grads(call.pools * s.block), sums(call.pools * call.N * 2 * s.P) {}
    double* of_image(const Call& call, const Sizes<T>& s, int64_t f, int64_t n) { return &sums[(f * call.N + n) * 2 * s.P]; }
    void add_up(const Call& call, const Sizes<T>& s) {
        for (int64_t f = 0; f < call.pools; f++)
            for (int64_t n = 1; n < call.N; n++)
                for (int64_t c = 0; c < 2 * s.P; c++) of_image(call, s, f, 0)[c] += of_image(call, s, f, n)[c];
    }
};

// Fill those of image n; and find the gradients of the pools' weights.
template <class T> static void pool_gradients(const Call& call, const Sizes<T>& sizes, int64_t n, PoolGradients<T>& found) {
    const int64_t P = sizes.P, C = call.C;
    Array<T> feature(sizes.pixels * C), narrow(P == C ? 0 : sizes.pixels * C);
    for (int64_t f = 0; f < call.pools; f++) {
        const int64_t block = call.chain_start[call.chains] + f;
        const T* y = (const T*)call.normalised + block * sizes.block + n * sizes.image;
        const T* statistics = (const T*)call.statistics + block * 3 * P;
        for (int64_t m = 0; m < sizes.pixels; m++)
            for (int64_t c = 0; c < C; c++) feature[m * C + c] = (y[m * P + c] - statistics[c]) * statistics[P + c];
        T* grad = &found.grads[f * sizes.block + n * sizes.image];
        feature_backward(call, sizes, f, n, feature.data(), P == C ? grad : narrow.data());
        if (P != C) widen(narrow.data(), sizes.pixels, C, P, grad);
        gradient_sums<T, false>(grad, y, statistics, sizes, found.of_image(call, sizes, f, n));
    }
}

// Add what the pools pass back to grad_x, image n.
template <class T> static void pools_backward(const Call& call, const Sizes<T>& sizes, PoolGradients<T>& found, int64_t n) {
    const int64_t P = sizes.P, C = call.C, pixels = call.H * call.W;
    Array<T> wide_x, passed(P == C ? 0 : pixels * P), grad_y(sizes.image);
    const T* x = image_of_x<T>(call, P, n, wide_x);
    T* grad_x = (T*)call.grad_x + n * pixels * C;
    for (int64_t f = 0; f < call.pools; f++) {
        const int64_t block = call.chain_start[call.chains] + f;
        const T* y = (const T*)call.normalised + block * sizes.block + n * sizes.image;
        norm_backward(&found.grads[f * sizes.block + n * sizes.image], y, (const T*)call.statistics + block * 3 * P, (T)1,
                      found.of_image(call, sizes, f, 0), (double)call.N * sizes.pixels, call.batch_statistics, sizes, grad_y.data());
        pool_scatter(call, Pool(call, f), x, y, grad_y.data(), P, P == C ? grad_x : passed.data());
    }
    if (P != C) for (int64_t m = 0; m < pixels; m++) for (int64_t c = 0; c < C; c++) grad_x[m * C + c] += passed[m * P + c];
}
