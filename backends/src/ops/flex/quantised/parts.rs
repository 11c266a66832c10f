//! What the kernels of several architectures share.

/// Calls the body of a kernel for the bits and groups of a scheme, and as many rows as are named.
macro_rules! of_scheme {
    (@of $scheme:expr, $kernel:ident, ($($rows:ident)?), $arguments:tt) => {
        match ($scheme.bits(), $scheme.group()) {
            (8, 16) => $kernel::<8, 16 $(, $rows)?> $arguments,
            (8, 32) => $kernel::<8, 32 $(, $rows)?> $arguments,
            (8, 64) => $kernel::<8, 64 $(, $rows)?> $arguments,
            (8, _) => $kernel::<8, 128 $(, $rows)?> $arguments,
            (_, 32) => $kernel::<4, 32 $(, $rows)?> $arguments,
            (_, 64) => $kernel::<4, 64 $(, $rows)?> $arguments,
            _ => $kernel::<4, 128 $(, $rows)?> $arguments,
        }
    };
    ($scheme:expr, $kernel:ident::<$rows:ident> $arguments:tt) => {
        of_scheme!(@of $scheme, $kernel, ($rows), $arguments)
    };
    ($scheme:expr, $kernel:ident $arguments:tt) => {
        of_scheme!(@of $scheme, $kernel, (), $arguments)
    };
}

pub(super) use of_scheme;
