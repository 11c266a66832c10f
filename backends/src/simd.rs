//! One body for every instruction set.

/// Defines a function that runs `$body` compiled for the instructions that were chosen. The body must be
/// `#[inline(always)]`; its last argument computes `a · b + c`, in one instruction where there is one.
macro_rules! vectorised {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? = $body:ident) => {
        $(#[$doc])*
        $vis fn $name($($arg: $type),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
                fn avx512($($arg: $type),*) $(-> $out)? {
                    $body($($arg,)* f32::mul_add)
                }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $type),*) $(-> $out)? {
                    $body($($arg,)* f32::mul_add)
                }
                match $crate::cpu::Level::chosen() {
                    // SAFETY: a level is chosen only where the processor has its features and those before it; there
                    // is no other precondition.
                    $crate::cpu::Level::Avx512 | $crate::cpu::Level::Amx => {
                        return unsafe { avx512($($arg),*) };
                    }
                    // SAFETY: as above.
                    $crate::cpu::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::cpu::Level::Portable | $crate::cpu::Level::Neon => {}
                }
            }
            #[cfg(target_arch = "aarch64")]
            if $crate::cpu::Level::chosen() == $crate::cpu::Level::Neon {
                return $body($($arg,)* f32::mul_add);
            }
            $body($($arg,)* |a, b, c| a * b + c)
        }
    };
}

pub(crate) use vectorised;
