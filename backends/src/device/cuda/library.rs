//! What kernels are linked with. CubeCL takes `exp`, `sin` and the like from a library of NVIDIA's, and looks for it where a
//! CUDA toolkit would be. Where there is none, functions of our own stand in for it: `backends/libdevice` has their source.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::{env, fs, io};

/// Our functions, as bitcode of LLVM.
const FUNCTIONS: &[u8] = include_bytes!("../../../libdevice/math.bc");

/// The variable that names the toolkit's folder, and the folders that CubeCL tries where it is not set.
const VARIABLE: &str = "CUDA_PATH";
const ROOTS: [&str; 4] = ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda", "/usr"];

/// Where the library lies in a toolkit.
const PLACE: &str = "nvvm/libdevice/libdevice.10.bc";

/// Sees to it that CubeCL finds a library, the toolkit's or ours, or says why it will not. To be called before a kernel is
/// compiled.
pub(in crate::device) fn settle() -> Result<(), &'static str> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    let provide = || if is_in_toolkit(env::var(VARIABLE).ok(), &ROOTS) { Ok(()) } else { offer() };
    DONE.get_or_init(provide).as_ref().copied().map_err(String::as_str)
}

/// Whether CubeCL finds the library of a toolkit: in the folder that is named, else in the first one that looks like a toolkit.
fn is_in_toolkit(named: Option<String>, roots: &[&str]) -> bool {
    let looks_so = |root: &&&str| Path::new(root).join(PLACE).parent().is_some_and(Path::is_dir);
    let root = named.or_else(|| roots.iter().find(looks_so).map(|root| (*root).to_owned()));
    root.is_some_and(|root| Path::new(&root).join(PLACE).is_file())
}

/// Puts our functions beside CubeCL's compiled kernels, or into a folder for temporary files, and shows CubeCL where.
fn offer() -> Result<(), String> {
    let kept = kept().ok_or(io::ErrorKind::NotFound.into()).and_then(put);
    let folder = kept.or_else(|kept| temporary().and_then(put).map_err(|error| (kept, error)));
    let folder = folder.map_err(|(kept, error)| {
        format!(
            "the functions that kernels are linked with can be written neither to the user's cache folder ({kept}) nor to \
             that of temporary files ({error}); let XDG_CACHE_HOME or TMPDIR name a folder that can be written to"
        )
    })?;
    // SAFETY: This happens once in a process, and Rust's own readers of variables wait for it. Functions of C that read them at
    // this moment in other threads see the list as it was or as it becomes: glibc and musl leave alone what they were started
    // with, and Windows has a lock.
    unsafe { env::set_var(VARIABLE, folder) };
    Ok(())
}

/// The folder of this version of our functions in the user's cache.
fn kept() -> Option<PathBuf> {
    let folder = crate::kernel_cache::path()?.parent()?.to_owned();
    Some(folder.join(concat!("qwen3-vl-", env!("CARGO_PKG_VERSION"))))
}

/// A new folder, which others cannot write to.
fn temporary() -> io::Result<PathBuf> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let number = now.map_or(0, |now| now.as_nanos());
    let folder = env::temp_dir().join(format!("qwen3-vl-{}-{number}", std::process::id()));
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(&folder)?;
    Ok(folder)
}

/// Writes our functions below `folder`, unless they lie there; other processes see all of them or none.
fn put(folder: PathBuf) -> io::Result<PathBuf> {
    let place = folder.join(PLACE);
    if fs::read(&place).is_ok_and(|found| found == FUNCTIONS) {
        return Ok(folder);
    }
    let part = place.with_extension(format!("{}.part", std::process::id()));
    fs::create_dir_all(part.parent().unwrap_or(&folder))?;
    let written = fs::write(&part, FUNCTIONS).and_then(|()| fs::rename(&part, &place));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written.map(|()| folder)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device, Tensor, TensorData};

    use super::*;
    use crate::BackendKind;
    use crate::device;

    #[test]
    fn our_functions_are_written_once_and_again_where_they_are_damaged() {
        let root = tempfile::tempdir().unwrap();
        let folder = put(root.path().join("new")).unwrap();
        let (place, written) = (folder.join(PLACE), || fs::metadata(folder.join(PLACE)).unwrap());
        let first = written().modified().unwrap();
        put(folder.clone()).unwrap();
        assert_eq!(written().modified().unwrap(), first);
        fs::write(&place, &FUNCTIONS[1..]).unwrap();
        put(folder.clone()).unwrap();
        assert_eq!(fs::read(&place).unwrap(), FUNCTIONS);
        assert_eq!(fs::read_dir(place.parent().unwrap()).unwrap().count(), 1);
        assert!(put(place).is_err());
    }

    #[test]
    fn a_toolkit_is_one_that_has_the_library() {
        let root = tempfile::tempdir().unwrap();
        let [empty, whole] = ["empty", "whole"].map(|name| root.path().join(name));
        fs::create_dir_all(empty.join(PLACE).parent().unwrap()).unwrap();
        put(whole.clone()).unwrap();
        let [empty, whole] = [&empty, &whole].map(|folder| folder.to_str().unwrap());
        assert!(is_in_toolkit(Some(whole.to_owned()), &[]));
        assert!(is_in_toolkit(None, &["/nowhere", whole, empty]));
        // CubeCL looks no further.
        assert!(!is_in_toolkit(None, &[empty, whole]));
        assert!(!is_in_toolkit(Some(empty.to_owned()), &[whole]));
        assert!(!is_in_toolkit(None, &[]));
    }

    #[test]
    fn temporary_folders_are_new_each_time() {
        let [a, b] = [temporary().unwrap(), temporary().unwrap()];
        assert_ne!(a, b);
        fs::remove_dir(a).unwrap();
        fs::remove_dir(b).unwrap();
    }

    /// A function on the device and in double on the processor, with the second operand where it takes two.
    type Case = (&'static str, fn(Tensor<1>, Tensor<1>) -> Tensor<1>, fn(f64, f64) -> f64);

    /// All that CubeCL takes from the library.
    const CASES: [Case; 13] = [
        ("exp", |x, _| x.exp(), |x, _| x.exp()),
        ("log", |x, _| x.abs().log(), |x, _| x.abs().ln()),
        ("sin", |x, _| x.sin(), |x, _| x.sin()),
        ("cos", |x, _| x.cos(), |x, _| x.cos()),
        ("tan", |x, _| x.tan(), |x, _| x.tan()),
        ("sinh", |x, _| x.sinh(), |x, _| x.sinh()),
        ("cosh", |x, _| x.cosh(), |x, _| x.cosh()),
        ("tanh", |x, _| x.tanh(), |x, _| x.tanh()),
        ("asin", |x, _| x.asin(), |x, _| x.asin()),
        ("acos", |x, _| x.acos(), |x, _| x.acos()),
        ("atan", |x, _| x.atan(), |x, _| x.atan()),
        ("atan2", |x, y| x.atan2(y), |x, y| x.atan2(y)),
        ("pow", |x, y| x.abs().powf(y), |x, y| x.abs().powf(y)),
    ];

    /// Small and large numbers of both signs, 1 and what lies next to it, and places where much cancels.
    fn numbers(dtype: DType) -> (Vec<f64>, Vec<f64>) {
        let sizes = (-30..30).map(|i| 2f64.powf(f64::from(i) * 0.5));
        let near = (-3..4).map(|i| 1.0 + f64::from(i) * 2f64.powi(-20));
        let quarters = [1.0, 2.0, 3.0, 710.0, 1e5, 1e6].map(|n| n * std::f64::consts::FRAC_PI_2);
        let mut x = vec![0.0];
        x.extend(sizes.chain(near).chain(quarters).flat_map(|x| [x, -x, x * 0.37]));
        let y = (0..x.len()).map(|i| ((i * 37 % 101) as f64 - 50.0) * 0.0713);
        let held = |x: f64| if dtype == DType::F32 { f64::from(x as f32) } else { x };
        (x.iter().copied().map(held).collect(), y.map(held).collect())
    }

    fn upload(x: &[f64], device: &Device, dtype: DType) -> Tensor<1> {
        let data = TensorData::new(x.to_vec(), [x.len()]).convert_dtype(dtype);
        Tensor::from_data(data, (device, dtype))
    }

    /// In units of the last place; numbers beyond those that a dtype holds are as its infinity.
    fn distance(found: f64, exact: f64, dtype: DType) -> f64 {
        let (digits, least) = if dtype == DType::F32 { (24, -149) } else { (53, -1074) };
        let held = if dtype == DType::F32 { f64::from(exact as f32) } else { exact };
        if found == held || found.is_nan() && held.is_nan() {
            return 0.0;
        }
        let unit = 2f64.powi((exact.abs().log2().floor() as i32 + 1 - digits).max(least));
        (found - exact).abs() / unit
    }

    #[test]
    fn functions_of_cards_lie_near_those_of_the_processor() {
        let mut cards = device::present().into_iter();
        let Some(card) = cards.find(|found| found.kind == BackendKind::Cuda) else {
            println!("skipped: no CUDA card on this machine");
            return;
        };
        println!("with {}", env::var(VARIABLE).unwrap_or_default());
        for dtype in [DType::F32, DType::F64].into_iter().filter(|dtype| card.holds(*dtype)) {
            let (x, y) = numbers(dtype);
            for (name, on_card, on_processor) in CASES {
                let operands = [&x, &y].map(|x| upload(x, &card.device, dtype));
                let [x_there, y_there] = operands;
                let found = on_card(x_there, y_there).into_data().convert::<f64>();
                let found = found.try_to_vec::<f64>().unwrap();
                let exact = x.iter().zip(&y).map(|(x, y)| on_processor(*x, *y));
                let each = found.iter().zip(exact).map(|(f, e)| distance(*f, e, dtype));
                let (at, worst) =
                    each.enumerate().fold((0, 0.0), |a, b| if b.1 > a.1 { b } else { a });
                println!("{name} in {dtype:?}: {worst:.2} units off at {}, {}", x[at], y[at]);
                assert!(
                    worst <= 4.0,
                    "{name} in {dtype:?} of {}, {}: {worst} units off",
                    x[at],
                    y[at]
                );
            }
        }
    }
}
