//! What stands in the way of CUDA. Burn finds out in the middle of the work, with a panic or an error per kernel.

pub(super) mod library;

/// The oldest CUDA that a driver must know, as drivers write versions: 12.8 is 12080. `.cargo/config.toml` sets what this
/// build binds to; in a build without that, Burn's bindings are those of the newest CUDA and need functions of 12.8.
const NEEDED: Option<&str> = option_env!("CUDARC_CUDA_VERSION");

fn needed() -> i32 {
    NEEDED.and_then(|version| version.parse().ok()).unwrap_or(12080)
}

/// Why there are no devices, or none that this build can use; nothing where there are.
pub(super) fn absence() -> Option<String> {
    #[cfg(target_os = "linux")]
    return driver::status().map_or_else(Some, too_old);
    #[cfg(not(target_os = "linux"))]
    None
}

/// What to say of a driver that knows CUDA up to `version`.
fn too_old(version: i32) -> Option<String> {
    let readable = |v: i32| format!("{}.{}", v / 1000, v % 1000 / 10);
    (version < needed()).then(|| {
        let (known, needed) = (readable(version), readable(needed()));
        format!(
            "the NVIDIA driver is too old: it knows CUDA {known}, and this build needs {needed}; update the driver"
        )
    })
}

/// Memory of a card, and what of it is free at the moment.
pub(super) fn memory(index: usize) -> Option<super::MemoryInfo> {
    #[cfg(target_os = "linux")]
    return driver::memory(index);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = index;
        None
    }
}

#[cfg(target_os = "linux")]
mod driver {
    use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
    use std::ptr::null_mut;

    use crate::device::MemoryInfo;

    type Context = *mut c_void;

    /// A function of the driver.
    ///
    /// # Safety
    /// `F` must be a pointer to a function with the signature that CUDA's driver interface gives to this name.
    unsafe fn function<F: Copy>(name: &CStr) -> Result<F, String> {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        let names = [c"libcuda.so", c"libcuda.so.1"];
        // SAFETY: opening the driver's library runs its constructors, as Burn would do next; it stays open.
        let open = |name: &CStr| unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        let library = names.into_iter().map(open).find(|library| !library.is_null());
        let library = library.ok_or("no NVIDIA driver was found (there is no libcuda.so.1)")?;
        // SAFETY: the library is open.
        let found = unsafe { libc::dlsym(library, name.as_ptr()) };
        if found.is_null() {
            return Err(format!("the NVIDIA driver has no {}; update it", name.to_string_lossy()));
        }
        // SAFETY: both are pointers, and the caller vouches for the signature.
        Ok(unsafe { std::mem::transmute_copy(&found) })
    }

    /// The newest CUDA that the driver knows, or why it cannot be used.
    pub(super) fn status() -> Result<i32, String> {
        let (mut version, mut devices) = (0, 0);
        // SAFETY: these are the signatures, and the pointers are of variables that outlive the calls.
        let error = unsafe {
            let init: unsafe extern "C" fn(c_uint) -> c_int = function(c"cuInit")?;
            let get_version: unsafe extern "C" fn(*mut c_int) -> c_int =
                function(c"cuDriverGetVersion")?;
            let get_count: unsafe extern "C" fn(*mut c_int) -> c_int =
                function(c"cuDeviceGetCount")?;
            match init(0) {
                0 => get_version(&mut version).max(get_count(&mut devices)),
                error => error,
            }
        };
        match error {
            0 if devices > 0 => Ok(version),
            0 | 100 => Err("the NVIDIA driver finds no GPU".to_owned()),
            803 => Err("parts of the NVIDIA driver are of different versions; restart the machine"
                .to_owned()),
            error => Err(format!("the NVIDIA driver cannot be used: error {error}{}", text(error))),
        }
    }

    /// What the driver calls an error.
    fn text(error: c_int) -> String {
        let mut text: *const c_char = std::ptr::null();
        // SAFETY: this is the signature, and the driver sets the pointer to text that stays, or to null.
        unsafe {
            type Get = unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int;
            if let Ok(get) = function::<Get>(c"cuGetErrorString") {
                get(error, &mut text);
            }
            if text.is_null() {
                String::new()
            } else {
                format!(", {}", CStr::from_ptr(text).to_string_lossy())
            }
        }
    }

    pub(super) fn memory(index: usize) -> Option<MemoryInfo> {
        let (mut device, mut free, mut total) = (0, 0, 0);
        let (mut context, mut before): (Context, Context) = (null_mut(), null_mut());
        // SAFETY: these are the signatures, and the pointers are of variables that outlive the calls. The context is the one
        // that Burn computes in, which therefore need not be given back; this thread keeps the one that it had.
        unsafe {
            let get: unsafe extern "C" fn(*mut c_int, c_int) -> c_int =
                function(c"cuDeviceGet").ok()?;
            let retain: unsafe extern "C" fn(*mut Context, c_int) -> c_int =
                function(c"cuDevicePrimaryCtxRetain").ok()?;
            let current: unsafe extern "C" fn(*mut Context) -> c_int =
                function(c"cuCtxGetCurrent").ok()?;
            let set: unsafe extern "C" fn(Context) -> c_int = function(c"cuCtxSetCurrent").ok()?;
            let info: unsafe extern "C" fn(*mut usize, *mut usize) -> c_int =
                function(c"cuMemGetInfo_v2").ok()?;
            let opened = get(&mut device, index as c_int) == 0
                && retain(&mut context, device) == 0
                && current(&mut before) == 0
                && set(context) == 0;
            let told = opened && info(&mut free, &mut total) == 0;
            if opened {
                set(before);
            }
            told.then_some(MemoryInfo { total: total as u64, available: free as u64 })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_is_too_old_is_told_what_it_lacks() {
        assert_eq!(too_old(needed()), None);
        let message = too_old(11040).unwrap();
        assert!(message.contains("CUDA 11.4") && message.contains("update"), "{message}");
    }
}
