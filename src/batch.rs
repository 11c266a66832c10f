//! Many requests at once on one model, see [`qwen3_vl_model::batch`].

use std::collections::HashMap;

use qwen3_vl_model::batch::{Batch, BatchEvent, BatchOptions, SequenceId};
use qwen3_vl_model::generate::FinishReason;
use qwen3_vl_model::stream::TextAssembler;

use crate::{Error, Prepared, Qwen3Vl, Request, Response};

/// Requests that are answered together; each gives the answer that it would give alone.
pub struct Requests<'m, K> {
    model: &'m Qwen3Vl,
    batch: Batch<'m>,
    open: HashMap<SequenceId, Open<'m, K>>,
}

struct Open<'m, K> {
    key: K,
    text: TextAssembler<'m>,
    response: Response,
}

impl Qwen3Vl {
    /// An empty batch, whose requests are told apart by keys of the caller's choice.
    pub fn batch<K>(&self, options: BatchOptions) -> Requests<'_, K> {
        let batch = Batch::new(self.model(), options);
        Requests { model: self, batch, open: HashMap::new() }
    }
}

impl<K> Requests<'_, K> {
    /// Adds a request whose prompt was made by [`Qwen3Vl::prepare`].
    ///
    /// # Errors
    /// When the request does not fit the model; the others are not touched.
    pub fn submit(&mut self, key: K, prepared: Prepared, request: &Request) -> Result<(), Error> {
        let options = self.model.options(request)?;
        let text = self.model.assembler(&prepared, request)?;
        let id = self.batch.submit(&prepared.chat.inputs, options)?;
        self.open.insert(id, Open { key, text, response: prepared.begin(request) });
        Ok(())
    }

    /// Whether a request added now would run in the next step.
    pub fn has_room(&self) -> bool {
        self.batch.has_room()
    }

    /// Requests that are not answered yet.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether every request is answered.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Runs the model once for all, and returns the answers that are complete now.
    pub fn step(&mut self) -> Vec<(K, Result<Response, Error>)> {
        let events = self.batch.step();
        events.into_iter().filter_map(|(id, event)| self.take(id, event)).collect()
    }

    fn take(&mut self, id: SequenceId, event: BatchEvent) -> Option<(K, Result<Response, Error>)> {
        let open = self.open.get_mut(&id)?;
        let reason = match event {
            BatchEvent::Failed(error) => {
                let open = self.open.remove(&id)?;
                return Some((open.key, Err(error.into())));
            }
            BatchEvent::Token { token, finish } => {
                open.text.push(token);
                if open.text.is_stopped() { Some(FinishReason::Stop) } else { finish }
            }
        };
        if reason.is_some() {
            open.text.finish();
        }
        while let Some(event) = open.text.pop() {
            open.response.collect(&event);
        }
        let reason = reason?;
        let (answer, timings) = self.batch.answer(id)?;
        let open = self.open.remove(&id)?;
        let response = open.response.completed(answer, reason, timings);
        self.batch.cancel(id);
        Some((open.key, Ok(response)))
    }
}
