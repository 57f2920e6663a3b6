// Feature maps with a margin of zeros around, for kernels that reach over the edge.
#pragma once
#include <cstring>

#include "vectors.hpp"

// Feature maps of one image with a margin of zeros around: (H + 2 margin, W + 2 margin, P).
struct Framed {
    int64_t H, W, P, margin;
    int64_t row() const { return (W + 2 * margin) * P; }
    int64_t size() const { return (H + 2 * margin) * row(); }
    int64_t at(int64_t y, int64_t x) const { return (y + margin) * row() + (x + margin) * P; }
};

// Copy an image (H, W, C) into a frame, with ReLU.
template <class T> static void frame_relu(const T* x, int64_t C, const Framed& f, T* to) {
    for (int64_t y = 0; y < f.H; y++)
        for (int64_t i = 0; i < f.W; i++) {
            const T* from = x + (y * f.W + i) * C;
            T* q = to + f.at(y, i);
            if (C == f.P) for (int64_t c = 0; c < C; c += Lanes<T>::count) store(q + c, relu<T>(load(from + c)));
            else for (int64_t c = 0; c < C; c++) q[c] = from[c] < 0 ? 0 : from[c];
        }
}

// Copy an image (H, W, P) into a frame, normalised and with ReLU.
template <class T> static void frame_normalised(const T* x, const T* statistics, const Framed& f, T* to) {
    const T *mean = statistics, *inverse = statistics + f.P;
    for (int64_t y = 0; y < f.H; y++)
        for (int64_t i = 0; i < f.W; i++)
            for (int64_t c = 0; c < f.P; c += Lanes<T>::count) {
                const V<T> value = (load(x + (y * f.W + i) * f.P + c) - load(mean + c)) * load(inverse + c);
                store(to + f.at(y, i) + c, relu<T>(value));
            }
}

template <class T> static void frame(const T* x, const Framed& f, T* to) {
    for (int64_t y = 0; y < f.H; y++) std::memcpy(to + f.at(y, 0), x + y * f.W * f.P, f.W * f.P * sizeof(T));
}

// Copy pixels (count, C) to (count, P), whose padding stays as it is.
template <class T> static void widen(const T* pixels, int64_t count, int64_t C, int64_t P, T* wide) {
    for (int64_t m = 0; m < count; m++) std::memcpy(wide + m * P, pixels + m * C, C * sizeof(T));
}

// Pixels (count, C) with channels padded to P in `wide`; as they are if C is P.
template <class T> static const T* widened(const T* pixels, int64_t count, int64_t C, int64_t P, Array<T>& wide) {
    if (C == P) return pixels;
    wide.resize(count * P);
    widen(pixels, count, C, P, wide.data());
    return wide.data();
}
