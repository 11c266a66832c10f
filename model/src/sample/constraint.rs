//! Answers of which only some are allowed.

/// Rules out tokens while an answer is written. One constraint belongs to one answer.
pub trait Constraint: Send {
    /// Sets the scores of the tokens that may not come next to -inf.
    ///
    /// # Errors
    /// When it cannot tell.
    fn restrict(&mut self, scores: &mut [f32]) -> Result<(), ConstraintError>;

    /// Takes the token that was chosen; returns whether the answer is complete with it.
    ///
    /// # Errors
    /// When the token is none that was left.
    fn accept(&mut self, id: u32) -> Result<bool, ConstraintError>;
}

impl std::fmt::Debug for dyn Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Constraint")
    }
}

/// A constraint that has lost its way.
#[derive(Debug, thiserror::Error)]
#[error("the answer cannot be kept to its form: {0}")]
pub struct ConstraintError(pub String);
