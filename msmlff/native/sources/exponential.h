#pragma once

#include "common.h"

// exp(x): x = k ln 2 + r, 2^k times the series of exp(r), |r| < 0.35.
template <class T>
INLINE Vec<T> exponential(Vec<T> x) {
    using I = typename Simd<T>::integer;
    constexpr bool single = sizeof(T) == 4;
    constexpr int mantissa = single ? 23 : 52, degree = single ? 7 : 13;
    constexpr T limit = single ? T(87) : T(708);
    const Vec<T> low = Vec<T>{} - limit, high = Vec<T>{} + limit;
    x = x < low ? low : x > high ? high : x;
    const Vec<T> shift = Vec<T>{} + T(3) * T(I(1) << (mantissa - 1));  // adding it rounds to a whole number
    const Vec<T> shifted = x * T(1.4426950408889634) + shift;
    const Vec<T> k = shifted - shift;
    constexpr T ln2_high = single ? T(0.693359375) : T(6.93145751953125e-1);
    constexpr T ln2_low = single ? T(-2.12194440054690583e-4) : T(1.42860682030941723212e-6);
    const Vec<T> r = (x - k * ln2_high) - k * ln2_low;
    Vec<T> series = Vec<T>{} + T(1);
    for (int i = degree; i > 0; i--) series = series * r * T(1.0 / i) + T(1);
    const typename Simd<T>::ivec bits = (typename Simd<T>::ivec)shifted - (typename Simd<T>::ivec)shift;
    const typename Simd<T>::ivec power = (bits + I(single ? 127 : 1023)) << mantissa;
    return series * (Vec<T>)power;
}
