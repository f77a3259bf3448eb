//! Carries out calls for other nodes.

use cairn_core::counters::{Answer, Call};
use cairn_core::kv::request::Sequenced;
use cairn_proto::counters::{CALLS_MAX, decode_call, encode_answer};
use cairn_proto::kv::KvError;
use cairn_proto::pb::peer::v1 as pb;
use cairn_proto::pb::peer::v1::counters_server::{self, CountersServer};
use futures::future::join_all;
use tonic::{Request, Response, Status};

use super::Counters;
use crate::peer::PeerService;

/// The service on the peer port.
#[derive(Clone, Debug)]
pub(crate) struct CountersService {
    peers: PeerService,
    counters: Counters,
}

impl CountersService {
    /// Lets in whom `peers` lets in.
    pub(crate) fn new(peers: PeerService, counters: Counters) -> Self {
        Self { peers, counters }
    }

    /// The service for tonic's router.
    pub(crate) fn into_server(self) -> CountersServer<Self> {
        CountersServer::new(self).max_decoding_message_size(cairn_proto::limits::PEER_MESSAGE_BYTES)
    }
}

#[tonic::async_trait]
impl counters_server::Counters for CountersService {
    async fn carry(
        &self,
        request: Request<pb::CounterCalls>,
    ) -> Result<Response<pb::CounterAnswers>, Status> {
        let pb::CounterCalls { handshake, calls } = request.into_inner();
        self.peers.admit(handshake)?;
        if calls.len() > CALLS_MAX {
            let problem = format!("{} calls at once: at most {CALLS_MAX}", calls.len());
            return Err(Status::invalid_argument(problem));
        }
        let calls: Vec<(Call, Option<Sequenced>)> = calls
            .into_iter()
            .map(decode_call)
            .collect::<Result<_, _>>()
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.counters
            .shared
            .figures
            .carried
            .increment(calls.len() as u64);
        let answers = calls
            .iter()
            .map(|(call, name)| self.counters.carry_here(call, *name));
        let answers: Vec<Answer> = join_all(answers).await;
        let encode = |answer| {
            encode_answer(answer, |error| {
                KvError::from_request(error, |_| String::new())
            })
        };
        let answers = answers.into_iter().map(encode).collect();
        Ok(Response::new(pb::CounterAnswers { answers }))
    }
}
