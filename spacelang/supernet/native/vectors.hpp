// Vectors of the processor, memory that suits them, and sums.
#pragma once
#include <cstdint>
#include <new>
#include <vector>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define TILE 12  // rows of a matrix product at a time: as many as fit into the registers
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#define TILE 6
#else
#define VECTOR_BYTES 16
#define TILE 8
#endif
#define PARTIAL 64  // pixels summed before they join a total: sums of few numbers are rounded less

template <class T> struct Lanes {
    typedef T type __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T)), may_alias));
    static const int count = VECTOR_BYTES / sizeof(T);
};
template <class T> using V = typename Lanes<T>::type;

template <class T> static inline V<T> load(const T* p) { return *(const V<T>*)p; }
template <class T> static inline void store(T* p, V<T> v) { *(V<T>*)p = v; }
template <class T> static inline V<T> zero() { return V<T>{}; }

template <class T> static inline V<T> relu(V<T> v) { return v < zero<T>() ? zero<T>() : v; }  // NaN stays

// Memory at the beginning of a cache line: a vector that crosses two of them takes twice the time.
template <class T> struct Aligned {
    typedef T value_type;
    Aligned() = default;
    template <class U> Aligned(const Aligned<U>&) {}
    T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(64))); }
    void deallocate(T* p, std::size_t) { ::operator delete(p, std::align_val_t(64)); }
    friend bool operator==(const Aligned&, const Aligned&) { return true; }
    friend bool operator!=(const Aligned&, const Aligned&) { return false; }
};

// A scratch array of zeros.
template <class T> using Array = std::vector<T, Aligned<T>>;

// Ask for large pages: the first touch of small ones costs as much as what is computed into them.
static void use_large_pages(void* memory, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t page = 1 << 21, first = ((uintptr_t)memory + page - 1) / page * page;
    const uintptr_t end = ((uintptr_t)memory + bytes) / page * page;
    if (bytes >= (1 << 24)) madvise((void*)first, end - first, MADV_HUGEPAGE);  // it may refuse: all works without
#endif
}

template <class T> static int64_t padded(int64_t channels) {
    const int lanes = Lanes<T>::count;
    return (channels + lanes - 1) / lanes * lanes;
}

// Add a vector to totals of double precision.
template <class T> static inline void add_to(double* totals, V<T> v) {
    for (int l = 0; l < Lanes<T>::count; l++) totals[l] += v[l];
}

// Call work(m, u) for m from first to last, u = 0, 1, 2, 3, 0, ...: sums that do not wait for each other.
template <class Work> static inline void in_fours(int64_t first, int64_t last, Work work) {
    int64_t m = first;
    for (; m + 4 <= last; m += 4) work(m, 0), work(m + 1, 1), work(m + 2, 2), work(m + 3, 3);
    for (int u = 0; m < last; m++, u++) work(m, u);
}
