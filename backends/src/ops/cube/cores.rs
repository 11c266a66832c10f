//! Tensor cores: which devices have them, and what kernels that use them have in common.
//!
//! CubeCL's cooperative matrices of 16 by 16 by 16 are used, which it offers for CUDA and for Vulkan where the driver has
//! them; Metal's are smaller. Values keep their dtype, f16 or bf16, and are summed in f32.

pub(super) mod attention;
pub(super) mod many;
pub(super) mod product;

use burn::tensor::DType;
use burn_cubecl::cubecl;
use cubecl::client::Client;
use cubecl::ir::features::MmaConfig;

use super::launch::element;
#[cfg(all(test, feature = "flex"))]
use plain::body;
use product::{EDGE, PLANE};

/// Whether products of tiles of this dtype run on tensor cores; nothing where they do not.
pub(super) fn of(client: &Client, dtype: DType) -> Option<bool> {
    let half = matches!(dtype, DType::F16 | DType::BF16);
    let (properties, edge) = (client.properties(), EDGE as u32);
    let config = MmaConfig {
        a_type: element(dtype),
        b_type: element(dtype),
        cd_type: element(DType::F32),
        m: edge,
        n: edge,
        k: edge,
    };
    let planes = [properties.hardware.plane_size_min, properties.hardware.plane_size_max];
    let listed = properties.features.matmul.cmma.contains(&config);
    body(half && listed && planes == [PLANE as u32; 2], half)
}

#[cfg(not(all(test, feature = "flex")))]
fn body(found: bool, _half: bool) -> Option<bool> {
    found.then_some(true)
}

/// Bytes of shared memory that a cube may take: half of what there is where that is `enough`, so that a second cube has
/// room beside it, else all.
pub(super) fn room(client: &Client, enough: usize) -> usize {
    let all = client.properties().hardware.max_shared_memory_size;
    if all / 2 >= enough { all / 2 } else { all }
}

/// The plain body of products, for tests on devices without tensor cores: all but the products themselves is the same.
#[cfg(all(test, feature = "flex"))]
pub(super) mod plain {
    use std::cell::Cell;

    thread_local! {
        static CHOSEN: Cell<bool> = const { Cell::new(false) };
        static TAKEN: Cell<usize> = const { Cell::new(0) };
    }

    /// Tensor cores where they were found, or the plain body.
    pub fn body(found: bool, half: bool) -> Option<bool> {
        let body = (found || CHOSEN.get() && half).then_some(found);
        TAKEN.set(TAKEN.get() + usize::from(body.is_some()));
        body
    }

    /// Runs a test with it, which has to get to it `launches` times.
    pub fn with(launches: usize, test: impl FnOnce()) {
        CHOSEN.set(true);
        TAKEN.set(0);
        test();
        CHOSEN.set(false);
        assert_eq!(TAKEN.get(), launches, "launches of kernels for tensor cores");
    }
}
