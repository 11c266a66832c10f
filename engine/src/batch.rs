//! Many requests at once on one model, see [`qwen3_vl_model::batch`].

use std::collections::HashMap;

use qwen3_vl_model::batch::{Batch, BatchEvent, BatchOptions, BatchStats, SequenceId};
use qwen3_vl_model::generate::FinishReason;
use qwen3_vl_model::stream::{StreamEvent, TextAssembler};

use crate::grammar::Guide;
use crate::{Error, Prepared, Qwen3Vl, Ready, Request, Response};

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

impl<'m, K> Requests<'m, K> {
    /// Adds a request whose prompt was made by [`Qwen3Vl::prepare`].
    ///
    /// # Errors
    /// When the request does not fit the model or the memory; the others are not touched.
    pub fn submit(&mut self, key: K, prepared: Prepared, request: &Request) -> Result<(), Error> {
        let ready = self.model.ready(prepared, request)?;
        self.try_submit(key, ready).map_err(|(_, error)| error)
    }

    /// Adds a request that was looked at by [`Qwen3Vl::check`], giving the key back where it is refused all the same.
    ///
    /// # Errors
    /// As [`Self::submit`].
    pub fn try_submit(&mut self, key: K, ready: Ready) -> Result<(), (K, Error)> {
        let Ready { prepared, options, stops, guide } = ready;
        let (inputs, guide) = (&prepared.chat.inputs, guide.map(Guide::boxed));
        let logprobs = options.logprobs.is_some();
        match self.batch.submit_constrained(inputs, options, guide) {
            Ok(id) => {
                let text = self.model.assembler(&prepared, stops);
                self.open.insert(id, Open { key, text, response: prepared.begin(logprobs) });
                Ok(())
            }
            Err(error) => Err((key, error.into())),
        }
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

    /// How full the batch is, and what its caches have saved.
    pub fn stats(&self) -> BatchStats {
        self.batch.stats()
    }

    /// Forgets the requests whose key `wanted` does not want.
    pub fn retain(&mut self, mut wanted: impl FnMut(&K) -> bool) {
        let gone = self.open.iter().filter(|(_, open)| !wanted(&open.key));
        let gone: Vec<SequenceId> = gone.map(|(id, _)| *id).collect();
        for id in gone {
            self.open.remove(&id);
            self.batch.cancel(id);
        }
    }

    /// Runs the model once for all, and returns the answers that are complete now.
    pub fn step(&mut self) -> Vec<(K, Result<Response, Error>)> {
        self.step_with(&mut |_, _| ())
    }

    /// As [`Self::step`], telling `sink` of every piece of every answer.
    pub fn step_with(
        &mut self,
        sink: &mut dyn FnMut(&K, &StreamEvent),
    ) -> Vec<(K, Result<Response, Error>)> {
        let events = self.batch.step();
        events.into_iter().filter_map(|(id, event)| self.take(id, event, sink)).collect()
    }

    fn take(
        &mut self,
        id: SequenceId,
        event: BatchEvent,
        sink: &mut dyn FnMut(&K, &StreamEvent),
    ) -> Option<(K, Result<Response, Error>)> {
        let open = self.open.get_mut(&id)?;
        let reason = match event {
            BatchEvent::Failed(error) => {
                let open = self.open.remove(&id)?;
                return Some((open.key, Err(error.into())));
            }
            BatchEvent::Token { token, finish } => {
                let (answer, _) = self.batch.answer(id)?;
                open.text.push(answer, token);
                if open.text.is_stopped() { Some(FinishReason::Stop) } else { finish }
            }
        };
        if reason.is_some() {
            open.text.finish();
        }
        while let Some(event) = open.text.pop() {
            open.response.collect(&event);
            sink(&open.key, &event);
        }
        let reason = reason?;
        let (answer, timings) = self.batch.answer(id)?;
        let mut open = self.open.remove(&id)?;
        open.response.usage.reasoning_tokens = open.text.reasoning_tokens();
        open.response.stopped_by = open.text.stopped_by().map(str::to_owned);
        let response = open.response.completed(answer, reason, timings);
        self.batch.cancel(id);
        Some((open.key, Ok(response)))
    }
}
