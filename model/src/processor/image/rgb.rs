//! The one picture type that every step after decoding works on.

use super::ImageError;

/// An upright picture: 8-bit RGB, rows packed without padding.
#[derive(Clone, PartialEq, Eq)]
pub struct RgbImage {
    /// Columns, in pixels.
    pub width: u32,
    /// Rows, in pixels.
    pub height: u32,
    /// `height * width * 3` bytes, row by row, `R G B` within a pixel.
    pub data: Vec<u8>,
}

impl RgbImage {
    /// Wraps packed RGB rows.
    ///
    /// # Errors
    /// [`ImageError::ZeroSize`] for an empty picture, [`ImageError::DataLength`] where `data` is not `height * width * 3` bytes.
    pub fn new(width: u32, height: u32, data: Vec<u8>) -> Result<Self, ImageError> {
        let image = Self { width, height, data };
        image.check()?;
        Ok(image)
    }

    /// Checks what [`RgbImage::new`] checks, for pictures built field by field.
    pub(super) fn check(&self) -> Result<(), ImageError> {
        let (width, height) = (self.width, self.height);
        if width == 0 || height == 0 {
            return Err(ImageError::ZeroSize { width, height });
        }
        let expected = u64::from(width) * u64::from(height) * 3;
        if self.data.len() as u64 != expected {
            return Err(ImageError::DataLength {
                width,
                height,
                expected,
                actual: self.data.len(),
            });
        }
        Ok(())
    }

    /// Bytes of one row.
    pub(super) fn row_len(&self) -> usize {
        self.width as usize * 3
    }
}

impl std::fmt::Debug for RgbImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RgbImage({}x{})", self.width, self.height)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_wrong_lengths_and_empty_pictures() {
        assert!(RgbImage::new(2, 3, vec![0; 18]).is_ok());
        let short = RgbImage::new(2, 3, vec![0; 17]).unwrap_err();
        assert_eq!(
            short.to_string(),
            "A picture of 2x3 pixels needs 18 bytes of RGB data, but 17 were given."
        );
        assert!(matches!(
            RgbImage::new(0, 3, vec![]),
            Err(ImageError::ZeroSize { width: 0, height: 3 })
        ));
    }
}
