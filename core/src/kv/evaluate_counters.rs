//! What is written to use a striped counter ([`crate::counters`]).

use bytes::Bytes;

use super::super::body::{KIND_COUNTER, KIND_STRING, StoredValue};
use super::super::integer;
use super::super::request::{Condition, Expiry, WriteOutcome};
use super::{Bases, Evaluated, Looked, View, expiry_writes, holds, new_expiry};
use crate::counters::Control;
use crate::counters::control::StripeValue;
use crate::ids::Position;

impl<B: Bases> View<'_, B> {
    pub(super) fn establish(
        &self,
        key: &Bytes,
        control: &Bytes,
        condition: Condition,
        expiry: Expiry,
    ) -> Evaluated {
        let Looked { live, lapsed, .. } = self.look(key)?;
        // A primary that does not know of the prefix would let a blind write of another
        // pass (it may have the settings of before): it makes no counter.
        let is_declared = self.evaluator.counters.stripes(key).is_some();
        if !is_declared || !holds(condition, live.as_ref()) {
            let outcome = WriteOutcome::ConditionFailed {
                version: live.map(|current| current.version),
                previous: None,
            };
            return Ok((expiry_writes(key, lapsed), outcome));
        }
        let new = self.timely(StoredValue {
            expires_at: new_expiry(expiry, live.and_then(|current| current.value.expires_at)),
            kind: KIND_COUNTER,
            data: control.clone(),
        });
        Ok((
            vec![(key.clone(), new)],
            WriteOutcome::Set { previous: None },
        ))
    }

    /// As [`Self::establish`], at the number that the key holds now.
    pub(super) fn adopt(&self, key: &Bytes, control: &Bytes) -> Evaluated {
        let Looked { live, lapsed, .. } = self.look(key)?;
        let is_declared = self.evaluator.counters.stripes(key).is_some();
        let held = live.as_ref().map(|current| &current.value);
        let sum = held
            .filter(|value| value.kind == KIND_STRING && value.expires_at.is_none())
            .and_then(|value| integer::parse(&value.data));
        let (true, Some(sum), Ok(control)) = (is_declared, sum, Control::decode(control)) else {
            let outcome = WriteOutcome::ConditionFailed {
                version: live.map(|current| current.version),
                previous: None,
            };
            return Ok((expiry_writes(key, lapsed), outcome));
        };
        let control = Control {
            base: sum,
            total: sum,
            ..control
        };
        let new = StoredValue {
            expires_at: None,
            kind: KIND_COUNTER,
            data: control.encode(),
        };
        Ok((
            vec![(key.clone(), Some(new))],
            WriteOutcome::Set { previous: None },
        ))
    }

    /// Writes nothing where the version is another one.
    pub(super) fn conclude(
        &self,
        key: &Bytes,
        version: Position,
        to: Option<&(Bytes, Option<u64>)>,
        previous: Option<&Bytes>,
    ) -> Evaluated {
        let looked = self.look(key)?;
        if !looked.is_counter() || !holds(Condition::Version(version), looked.live.as_ref()) {
            let outcome = WriteOutcome::ConditionFailed {
                version: looked.live.map(|current| current.version),
                previous: None,
            };
            return Ok((Vec::new(), outcome));
        }
        let (value, outcome) = match to {
            None => (None, WriteOutcome::Deleted { count: 1 }),
            Some((data, expires_at)) => {
                let new = self.timely(StoredValue {
                    expires_at: *expires_at,
                    kind: KIND_STRING,
                    data: data.clone(),
                });
                let previous = previous.cloned();
                (new, WriteOutcome::Set { previous })
            }
        };
        Ok((vec![(key.clone(), value)], outcome))
    }

    pub(super) fn seal(&self, key: &Bytes, expires_at: u64) -> Evaluated {
        let looked = self.look_for_string(key)?;
        let before = match &looked.live {
            None => Some(StripeValue {
                sum: 0,
                is_sealed: false,
            }),
            Some(current) => StripeValue::parse(&current.value.data),
        };
        let Some(StripeValue { sum, is_sealed }) = before else {
            return Ok((Vec::new(), WriteOutcome::NotAnInteger));
        };
        let mut writes = expiry_writes(key, looked.lapsed);
        if !is_sealed {
            let sealed = StripeValue {
                sum,
                is_sealed: true,
            };
            let new = StoredValue {
                expires_at: Some(expires_at),
                kind: KIND_STRING,
                data: sealed.spell(),
            };
            writes = vec![(key.clone(), Some(new))];
        }
        Ok((writes, WriteOutcome::Integer(sum)))
    }
}
