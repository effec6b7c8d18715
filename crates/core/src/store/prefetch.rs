//! [`read`]: a hint to the processor that memory will be read soon. It changes nothing, whatever the address.

#![allow(
    unsafe_code,
    reason = "the hint is an intrinsic; it is what makes a batch of look-ups twice as fast as single ones"
)]

#[inline(always)]
pub(super) fn read<T>(address: *const T) {
    // SAFETY: A prefetch does not access memory as far as the program can tell and takes any address; the instruction
    // is part of every x86-64.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = address;
}
