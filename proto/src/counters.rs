//! Striped counters: their editions, and what data nodes ask of each other for them.

use bytes::Bytes;
use cairn_core::counters::machine::{Answer, Call, Learned};
use cairn_core::counters::{Control, name};
use cairn_core::ids::Position;
use cairn_core::kv::request::{
    ExpiryCondition, RequestError, Sequenced, Value, WriteOp, WriteOutcome,
};

use crate::kv::{
    KvError, check_key, decode_condition, decode_expiry, decode_refusal, encode_condition,
    encode_expiry, encode_refusal,
};
use crate::limits;
use crate::malformed::{Malformed, bounded, optional};
use crate::map::position;
use crate::pb::kv::v1 as kv;
use crate::pb::peer::v1 as pb;

/// The most calls that travel together: one for each stripe.
pub const CALLS_MAX: usize = cairn_core::counters::declared::STRIPES_MAX as usize;

const EXPIRY_CONDITIONS: [ExpiryCondition; 6] = [
    ExpiryCondition::Always,
    ExpiryCondition::Never,
    ExpiryCondition::Expires,
    ExpiryCondition::Sooner,
    ExpiryCondition::Later,
    ExpiryCondition::ExpiresSooner,
];

impl From<Control> for kv::CounterState {
    fn from(
        Control {
            edition,
            stripes,
            base,
            total,
            counted_at_ms,
        }: Control,
    ) -> Self {
        Self {
            edition,
            stripes: u32::from(stripes),
            base,
            total,
            counted_at_ms,
        }
    }
}

impl TryFrom<kv::CounterState> for Control {
    type Error = Malformed;

    fn try_from(
        kv::CounterState {
            edition,
            stripes,
            base,
            total,
            counted_at_ms,
        }: kv::CounterState,
    ) -> Result<Self, Malformed> {
        let stripes = u16::try_from(stripes)
            .ok()
            .filter(|stripes| (1..=CALLS_MAX).contains(&usize::from(*stripes)))
            .ok_or_else(|| Malformed::new("stripes", format!("{stripes} is out of range")))?;
        Ok(Self {
            edition,
            stripes,
            base,
            total,
            counted_at_ms,
        })
    }
}

impl From<Learned> for kv::Striped {
    fn from(
        Learned {
            control,
            version,
            expires_at,
        }: Learned,
    ) -> Self {
        Self {
            counter: Some(control.into()),
            version: Some(version.into()),
            expires_at_ms: expires_at,
        }
    }
}

impl TryFrom<kv::Striped> for Learned {
    type Error = Malformed;

    fn try_from(
        kv::Striped {
            counter,
            version,
            expires_at_ms,
        }: kv::Striped,
    ) -> Result<Self, Malformed> {
        Ok(Self {
            control: optional(counter, "counter")?.ok_or_else(|| Malformed::missing("counter"))?,
            version: position(version, "version")?,
            expires_at: expires_at_ms,
        })
    }
}

/// A call as another node is asked to carry it out; `None` for one that is no request. The
/// name is that of the request that the call concludes.
#[must_use]
pub fn encode_call(call: &Call, name: Option<Sequenced>) -> Option<pb::CounterCall> {
    use pb::counter_call::What;
    let (key, what) = match call {
        Call::Pause(_) => return None,
        Call::Read(key) => (key, What::Read(pb::CounterRead {})),
        Call::Write(op) => encode_write(op, name)?,
    };
    Some(pb::CounterCall {
        key: key.clone(),
        what: Some(what),
    })
}

fn encode_write(op: &WriteOp, name: Option<Sequenced>) -> Option<(&Bytes, pb::counter_call::What)> {
    use pb::counter_call::What;
    Some(match op {
        WriteOp::Set {
            key,
            value,
            condition,
            expiry,
            return_previous,
        } => {
            let (expires_at_ms, keep_expiry) = encode_expiry(*expiry);
            let set = pb::CounterSet {
                value: value.clone(),
                condition: encode_condition(*condition),
                expires_at_ms,
                keep_expiry,
                return_previous: *return_previous,
            };
            (key, What::Set(set))
        }
        WriteOp::Delete { key, condition } => {
            let condition = encode_condition(*condition);
            (key, What::Delete(pb::CounterDelete { condition }))
        }
        WriteOp::Increment { key, delta } => (key, What::Increment(*delta)),
        WriteOp::Expire {
            key,
            expiry,
            condition,
            return_value,
        } => {
            let (expires_at_ms, keep_expiry) = encode_expiry(*expiry);
            let at = EXPIRY_CONDITIONS.iter().position(|c| c == condition);
            let expire = pb::CounterExpire {
                expires_at_ms,
                keep_expiry,
                condition: at.unwrap_or_default() as u32,
                return_value: *return_value,
            };
            (key, What::Expire(expire))
        }
        WriteOp::Establish {
            key,
            condition,
            control,
            expiry,
        } => {
            let (expires_at_ms, keep_expiry) = encode_expiry(*expiry);
            let establish = pb::CounterEstablish {
                control: control.clone(),
                condition: encode_condition(*condition),
                expires_at_ms,
                keep_expiry,
            };
            (key, What::Establish(establish))
        }
        WriteOp::Adopt { key, control } => (key, What::Adopt(control.clone())),
        WriteOp::Seal { key, expires_at } => (key, What::Seal(*expires_at)),
        WriteOp::Conclude {
            key,
            version,
            to,
            previous,
        } => {
            let conclude = pb::CounterConclude {
                version: Some((*version).into()),
                to: to.as_ref().map(|(value, expires_at)| pb::CounterSuccessor {
                    value: value.clone(),
                    expires_at_ms: *expires_at,
                }),
                previous: previous.clone(),
                sequenced: name.map(Into::into),
            };
            (key, What::Conclude(conclude))
        }
        WriteOp::Splice { .. } | WriteOp::Batch { .. } => return None,
    })
}

/// An edition of a counter that another node begins.
fn check_edition(key: &[u8], control: &[u8]) -> Result<(), Malformed> {
    Control::decode(control).map_err(|error| Malformed::new("control", error.to_string()))?;
    bounded(key.len(), name::COUNTER_KEY_BYTES_MAX, "key")
}

/// A call that another node asks for, and the name that it has.
///
/// # Errors
/// Names what is wrong with it.
pub fn decode_call(
    pb::CounterCall { key, what }: pb::CounterCall,
) -> Result<(Call, Option<Sequenced>), Malformed> {
    use pb::counter_call::What;
    check_key(&key)?;
    let op = match what.ok_or_else(|| Malformed::missing("what"))? {
        What::Read(pb::CounterRead {}) => return Ok((Call::Read(key), None)),
        What::Set(pb::CounterSet {
            value,
            condition,
            expires_at_ms,
            keep_expiry,
            return_previous,
        }) => {
            bounded(value.len(), limits::VALUE_BYTES, "value")?;
            WriteOp::Set {
                key,
                value,
                condition: decode_condition(condition)?,
                expiry: decode_expiry(expires_at_ms, keep_expiry)?,
                return_previous,
            }
        }
        What::Delete(pb::CounterDelete { condition }) => WriteOp::Delete {
            key,
            condition: decode_condition(condition)?,
        },
        What::Increment(delta) => WriteOp::Increment { key, delta },
        What::Expire(pb::CounterExpire {
            expires_at_ms,
            keep_expiry,
            condition,
            return_value,
        }) => WriteOp::Expire {
            key,
            expiry: decode_expiry(expires_at_ms, keep_expiry)?,
            condition: *EXPIRY_CONDITIONS
                .get(condition as usize)
                .ok_or_else(|| Malformed::new("condition", format!("{condition} is unknown")))?,
            return_value,
        },
        What::Adopt(control) => {
            check_edition(&key, &control)?;
            WriteOp::Adopt { key, control }
        }
        What::Establish(pb::CounterEstablish {
            control,
            condition,
            expires_at_ms,
            keep_expiry,
        }) => {
            check_edition(&key, &control)?;
            WriteOp::Establish {
                key,
                condition: decode_condition(condition)?,
                control,
                expiry: decode_expiry(expires_at_ms, keep_expiry)?,
            }
        }
        What::Seal(expires_at) => WriteOp::Seal { key, expires_at },
        What::Conclude(pb::CounterConclude {
            version,
            to,
            previous,
            sequenced,
        }) => {
            let name = sequenced.map(Sequenced::try_from).transpose()?;
            let to = to.map(|to| (to.value, to.expires_at_ms));
            if let Some((value, _)) = &to {
                bounded(value.len(), limits::VALUE_BYTES, "value")?;
            }
            let op = WriteOp::Conclude {
                key,
                version: position(version, "version")?,
                to,
                previous,
            };
            return Ok((Call::Write(op), name));
        }
    };
    Ok((Call::Write(op), None))
}

/// What came of a call. `error` makes an error of this node's one that means something to
/// another.
pub fn encode_answer(
    answer: Answer,
    error: impl FnOnce(RequestError) -> KvError,
) -> pb::CounterAnswer {
    use pb::counter_answer::What;
    let what = match answer {
        Answer::Found(Some(value)) => What::Found(value.into()),
        Answer::Found(None) => What::Absent(pb::CounterAbsent {}),
        Answer::Wrote(outcome, position) => match encode_outcome(outcome) {
            Some(outcome) => What::Wrote(pb::CounterWrote {
                position: Some(position.into()),
                outcome: Some(outcome),
            }),
            None => What::Error(KvError::Unknown.into()),
        },
        Answer::Failed(failure) => What::Error(error(failure).into()),
        Answer::Paused => What::Error(KvError::Unknown.into()),
    };
    pb::CounterAnswer { what: Some(what) }
}

fn encode_outcome(outcome: WriteOutcome) -> Option<pb::counter_wrote::Outcome> {
    use pb::counter_wrote::Outcome;
    Some(match outcome {
        WriteOutcome::Set { previous } => Outcome::Set(pb::CounterSetDone { previous }),
        WriteOutcome::ConditionFailed { version, previous } => {
            Outcome::ConditionFailed(pb::CounterConditionFailed {
                existing: version.map(Into::into),
                previous,
            })
        }
        WriteOutcome::Deleted { count } => Outcome::Deleted(count),
        WriteOutcome::Integer(integer) => Outcome::Integer(integer),
        refusal => Outcome::Refusal(encode_refusal(&refusal)? as i32),
    })
}

/// What another node says came of a call.
///
/// # Errors
/// Names what is wrong with it.
pub fn decode_answer(
    pb::CounterAnswer { what }: pb::CounterAnswer,
) -> Result<Result<Answer, KvError>, Malformed> {
    use pb::counter_answer::What;
    Ok(match what.ok_or_else(|| Malformed::missing("what"))? {
        What::Found(value) => Ok(Answer::Found(Some(Value::try_from(value)?))),
        What::Absent(pb::CounterAbsent {}) => Ok(Answer::Found(None)),
        What::Wrote(pb::CounterWrote {
            position: at,
            outcome,
        }) => {
            let outcome = outcome.ok_or_else(|| Malformed::missing("outcome"))?;
            let at: Position = position(at, "position")?;
            Ok(Answer::Wrote(decode_outcome(outcome)?, at))
        }
        What::Error(error) => Err(KvError::try_from(error)?),
    })
}

fn decode_outcome(outcome: pb::counter_wrote::Outcome) -> Result<WriteOutcome, Malformed> {
    use pb::counter_wrote::Outcome;
    Ok(match outcome {
        Outcome::Set(pb::CounterSetDone { previous }) => WriteOutcome::Set { previous },
        Outcome::ConditionFailed(pb::CounterConditionFailed { existing, previous }) => {
            WriteOutcome::ConditionFailed {
                version: existing.map(Into::into),
                previous,
            }
        }
        Outcome::Deleted(count) => WriteOutcome::Deleted { count },
        Outcome::Integer(integer) => WriteOutcome::Integer(integer),
        Outcome::Refusal(refusal) => decode_refusal(refusal)?,
    })
}

#[cfg(test)]
mod tests {
    use cairn_core::ids::{Epoch, Index};
    use cairn_core::kv::request::{Condition, Expiry};

    use super::*;

    const AT: Position = Position {
        epoch: Epoch(3),
        index: Index(9),
    };

    #[test]
    fn calls_come_back() {
        let key = Bytes::from_static(b"views:a");
        let control = Control {
            edition: 7,
            stripes: 16,
            base: -3,
            total: 4,
            counted_at_ms: 5,
        };
        let mut calls = vec![
            Call::Read(key.clone()),
            Call::Write(WriteOp::Set {
                key: key.clone(),
                value: Bytes::from_static(b"1"),
                condition: Condition::Version(AT),
                expiry: Expiry::AtMillis(8),
                return_previous: true,
            }),
            Call::Write(WriteOp::Delete {
                key: key.clone(),
                condition: Condition::Present,
            }),
            Call::Write(WriteOp::Increment {
                key: key.clone(),
                delta: -7,
            }),
            Call::Write(WriteOp::Establish {
                key: key.clone(),
                condition: Condition::Absent,
                control: control.encode(),
                expiry: Expiry::Keep,
            }),
            Call::Write(WriteOp::Adopt {
                key: key.clone(),
                control: control.encode(),
            }),
            Call::Write(WriteOp::Seal {
                key: key.clone(),
                expires_at: 12,
            }),
        ];
        for to in [None, Some((Bytes::from_static(b"v"), Some(3)))] {
            calls.push(Call::Write(WriteOp::Conclude {
                key: key.clone(),
                version: AT,
                to,
                previous: Some(Bytes::from_static(b"12")),
            }));
        }
        calls.extend(EXPIRY_CONDITIONS.map(|condition| {
            Call::Write(WriteOp::Expire {
                key: key.clone(),
                expiry: Expiry::Never,
                condition,
                return_value: true,
            })
        }));
        for call in calls {
            let named = matches!(&call, Call::Write(WriteOp::Conclude { .. }));
            let name = named.then_some(Sequenced {
                client: 7,
                sequence: 3,
                known: AT,
            });
            let encoded = encode_call(&call, name).expect("a request");
            assert_eq!(decode_call(encoded), Ok((call, name)));
        }
        assert_eq!(encode_call(&Call::Pause(3), None), None);
    }

    #[test]
    fn answers_come_back() {
        let outcomes = [
            WriteOutcome::Set {
                previous: Some(Bytes::from_static(b"x")),
            },
            WriteOutcome::ConditionFailed {
                version: Some(AT),
                previous: None,
            },
            WriteOutcome::Deleted { count: 1 },
            WriteOutcome::Integer(-8),
            WriteOutcome::NotAnInteger,
            WriteOutcome::Overflow,
        ];
        let wrote = outcomes.map(|outcome| Answer::Wrote(outcome, AT));
        let value = Value::string(Bytes::from_static(b"12"), AT, Some(3));
        let found = [Answer::Found(None), Answer::Found(Some(value))];
        for answer in wrote.into_iter().chain(found) {
            let encoded = encode_answer(answer.clone(), |_| KvError::Unknown);
            assert_eq!(decode_answer(encoded), Ok(Ok(answer)));
        }
        let failed = Answer::Failed(RequestError::Overloaded);
        let encoded = encode_answer(failed, |error| {
            KvError::from_request(error, |_| String::new())
        });
        assert_eq!(decode_answer(encoded), Ok(Err(KvError::Overloaded)));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let establish = pb::counter_call::What::Establish(pb::CounterEstablish {
            control: Bytes::from_static(b"\x01"),
            ..Default::default()
        });
        let call = pb::CounterCall {
            key: Bytes::from_static(b"a"),
            what: Some(establish),
        };
        assert_eq!(decode_call(call).unwrap_err().field(), "control");
        let call = pb::CounterCall {
            key: Bytes::from_static(b"a"),
            what: Some(pb::counter_call::What::Adopt(Bytes::from_static(b"\x01"))),
        };
        assert_eq!(decode_call(call).unwrap_err().field(), "control");
        let state = kv::CounterState {
            stripes: 65,
            ..Default::default()
        };
        assert_eq!(Control::try_from(state).unwrap_err().field(), "stripes");
    }
}
