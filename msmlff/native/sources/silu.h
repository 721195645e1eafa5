// silu(x) = x / (1 + exp(-x)) and its derivatives, a vector at a time.
#pragma once

#include "exponential.h"

// silu and its first and second derivative at z, each where it is wanted.
template <class T>
void silu(const T* z, int64_t size, T* value, T* slope, T* curve) {
    for (int64_t i = 0; i < size; i += Simd<T>::lanes) {
        const Vec<T> x = load(z + i);
        const Vec<T> s = T(1) / (T(1) + exponential<T>(-x));
        if (value) store(value + i, x * s);
        if (slope) store(slope + i, s * (T(1) + x * (T(1) - s)));
        if (curve) store(curve + i, s * (T(1) - s) * (T(2) + x * (T(1) - T(2) * s)));
    }
}
