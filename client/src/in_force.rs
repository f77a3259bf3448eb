//! Which certificates and users a node goes by: for whoever replaces them, and has to know
//! that every node has taken the new ones up before the old ones go.

use std::time::Duration;

use cairn_proto::pb::diagnosis::v1::diagnosis_client::DiagnosisClient;
use cairn_proto::pb::diagnosis::v1::{InForceReply, InForceRequest};
use tokio::time::timeout;
use tonic::Code;

use crate::transport::Dialer;

/// The most that a node may say: many times what it does.
const REPLY_BYTES_MAX: usize = 64 << 10;

/// What a node goes by, each as its SHA-256.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct InForce {
    /// Its own certificate, in DER; empty where it speaks no TLS.
    pub certificate: Vec<u8>,
    /// The certificates by which it knows who signed another's.
    pub authorities: Vec<Vec<u8>>,
    /// The users file; empty where it has none.
    pub users: Vec<u8>,
}

/// Asks the node whose port for clients is at `address`.
///
/// # Errors
/// In words, where it does not tell in time.
pub async fn in_force(dialer: &Dialer, address: &str, within: Duration) -> Result<InForce, String> {
    let ask = async {
        let channel = dialer.dial(address).await.map_err(|e| e.to_string())?;
        let mut client = DiagnosisClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
        let reply = client.in_force(InForceRequest {}).await;
        reply
            .map(tonic::Response::into_inner)
            .map_err(|status| match status.code() {
                Code::Unimplemented => "it runs a build that cannot tell".to_owned(),
                _ => status.message().to_owned(),
            })
    };
    let told = timeout(within, ask).await;
    let InForceReply {
        certificate,
        authorities,
        users,
    } = told.unwrap_or_else(|_| Err(format!("no answer within {within:?}")))?;
    Ok(InForce {
        certificate: certificate.to_vec(),
        authorities: authorities.iter().map(|one| one.to_vec()).collect(),
        users: users.to_vec(),
    })
}
