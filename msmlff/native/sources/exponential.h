#pragma once

#include "common.h"

// 1 / n!
template <class T>
constexpr T inverse_factorial[] = {
    T(1.0), T(1.0), T(1.0 / 2), T(1.0 / 6), T(1.0 / 24), T(1.0 / 120), T(1.0 / 720), T(1.0 / 5040), T(1.0 / 40320),
    T(1.0 / 362880), T(1.0 / 3628800), T(1.0 / 39916800), T(1.0 / 479001600), T(1.0 / 6227020800)};

// exp(x) of |x| up to 87 (float) or 708: x = k ln 2 + r, 2^k times the series of exp(r), |r| < 0.35.
template <class T>
INLINE Vec<T> exponential_within(Vec<T> x) {
    using I = typename Simd<T>::integer;
    constexpr bool single = sizeof(T) == 4;
    constexpr int mantissa = single ? 23 : 52, degree = single ? 7 : 13;
    const Vec<T> shift = Vec<T>{} + T(3) * T(I(1) << (mantissa - 1));  // adding it rounds to a whole number
    const Vec<T> shifted = x * T(1.4426950408889634) + shift;
    const Vec<T> k = shifted - shift;
    constexpr T ln2_high = single ? T(0.693359375) : T(6.93145751953125e-1);
    constexpr T ln2_low = single ? T(-2.12194440054690583e-4) : T(1.42860682030941723212e-6);
    const Vec<T> r = (x - k * ln2_high) - k * ln2_low;
    Vec<T> series = Vec<T>{} + inverse_factorial<T>[degree];
    for (int i = degree; i-- > 0;) series = series * r + inverse_factorial<T>[i];
    const typename Simd<T>::ivec bits = (typename Simd<T>::ivec)shifted - (typename Simd<T>::ivec)shift;
    const typename Simd<T>::ivec power = (bits + I(single ? 127 : 1023)) << mantissa;
    return series * (Vec<T>)power;
}

// exp(x), of what lies beyond its bounds the value there.
template <class T>
INLINE Vec<T> exponential(Vec<T> x) {
    constexpr T limit = sizeof(T) == 4 ? T(87) : T(708);
    const Vec<T> low = Vec<T>{} - limit, high = Vec<T>{} + limit;
    return exponential_within<T>(x < low ? low : x > high ? high : x);
}
