//! What stands in the way of CUDA. Burn finds out in the middle of the work, with a panic or an error per kernel.

use std::path::{Path, PathBuf};

/// The oldest CUDA that a driver must know, as drivers write versions: 12.8 is 12080. `.cargo/config.toml` sets what this
/// build binds to; in a build without that, Burn's bindings are those of the newest CUDA and need functions of 12.8.
const NEEDED: Option<&str> = option_env!("CUDARC_CUDA_VERSION");

fn needed() -> i32 {
    NEEDED.and_then(|version| version.parse().ok()).unwrap_or(12080)
}

/// Why there are no devices, or none that this build can use; nothing where there are.
pub(super) fn absence() -> Option<String> {
    #[cfg(target_os = "linux")]
    return driver::status().err().or_else(|| driver::status().ok().and_then(too_old));
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

/// What kernels lack before they can be compiled: CubeCL links those that call `exp`, `sin` and the like with a library of
/// NVIDIA's, and looks for it where a toolkit would be.
pub(super) fn missing_library() -> Option<String> {
    let library = |root: &Path| root.join("nvvm/libdevice/libdevice.10.bc");
    let found = match std::env::var_os("CUDA_PATH") {
        Some(root) => library(&PathBuf::from(root)).is_file(),
        None => {
            let roots = ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda", "/usr"];
            roots.iter().any(|root| library(Path::new(root)).is_file())
        }
    };
    (!found).then(|| {
        "kernels are linked with nvvm/libdevice/libdevice.10.bc of the CUDA toolkit, which was not found; install the \
         toolkit, or `pip install nvidia-cuda-nvcc-cu12`, and let CUDA_PATH name the folder that has nvvm in it \
         (.../site-packages/nvidia/cuda_nvcc)"
            .to_owned()
    })
}

#[cfg(target_os = "linux")]
mod driver {
    use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

    /// The newest CUDA that the driver knows, or why it cannot be used.
    pub(super) fn status() -> Result<i32, String> {
        let names = [c"libcuda.so", c"libcuda.so.1"];
        // SAFETY: opening the driver's library runs its constructors, as Burn would do next; it stays open.
        let open = |name: &CStr| unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW) };
        let library = names.into_iter().map(open).find(|library| !library.is_null());
        let library = library.ok_or("no NVIDIA driver was found (there is no libcuda.so.1)")?;
        let named = |name: &CStr| {
            // SAFETY: the library is open.
            let found = unsafe { libc::dlsym(library, name.as_ptr()) };
            if found.is_null() { Err("libcuda.so.1 is not a CUDA driver".to_owned()) } else { Ok(found) }
        };
        type Init = unsafe extern "C" fn(c_uint) -> c_int;
        type OfInt = unsafe extern "C" fn(*mut c_int) -> c_int;
        // SAFETY: these are the signatures of CUDA's driver interface, which do not change.
        let init = unsafe { std::mem::transmute::<*mut c_void, Init>(named(c"cuInit")?) };
        let version = unsafe { std::mem::transmute::<*mut c_void, OfInt>(named(c"cuDriverGetVersion")?) };
        let count = unsafe { std::mem::transmute::<*mut c_void, OfInt>(named(c"cuDeviceGetCount")?) };
        let (mut known, mut devices) = (0, 0);
        // SAFETY: the pointers are of variables that outlive the calls.
        let error = match unsafe { init(0) } {
            0 => unsafe { version(&mut known).max(count(&mut devices)) },
            error => error,
        };
        match error {
            0 if devices > 0 => Ok(known),
            0 | 100 => Err("the NVIDIA driver finds no GPU".to_owned()),
            803 => Err("parts of the NVIDIA driver are of different versions; restart the machine".to_owned()),
            error => Err(format!("the NVIDIA driver cannot be used: {}", text(named(c"cuGetErrorString"), error))),
        }
    }

    fn text(function: Result<*mut c_void, String>, error: c_int) -> String {
        type ErrorText = unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int;
        let mut text = std::ptr::null();
        if let Ok(function) = function {
            // SAFETY: the signature is CUDA's, and the pointer is of a variable that outlives the call.
            unsafe { std::mem::transmute::<*mut c_void, ErrorText>(function)(error, &mut text) };
        }
        if text.is_null() {
            return format!("error {error}");
        }
        // SAFETY: the driver returns text that ends in a zero and stays.
        format!("error {error}, {}", unsafe { CStr::from_ptr(text) }.to_string_lossy())
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
