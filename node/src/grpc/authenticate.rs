//! Who calls: the credential of each call, checked before the service sees it.
//!
//! The service finds a [`Caller`] among the request's extensions and asks it what it may
//! do. Where none is there, nobody calls.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use base64::Engine as _;
use futures::FutureExt;
use futures::future::{BoxFuture, Either};
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use tonic::body::Body;
use tonic::{Extensions, Status};
use tower::{Layer, Service};

use crate::users::{Caller, Checking, Denied, Origin, Role, Users};

/// Services that answer without a credential: probes of Kubernetes have none.
const OPEN_TO_ALL: &str = "/grpc.health.v1.Health/";
/// What other nodes send that ask whether the port answers. They need no more than the
/// refusal, and it is nothing to count or to log.
pub(crate) const PROBE: &str = "cairn-probe";

/// Who makes a call.
pub(crate) fn caller_of(extensions: &Extensions) -> Caller {
    extensions.get().cloned().unwrap_or_else(Caller::nobody)
}

/// Refuses whoever has not the role admin, in these words, and counts the refusal for the
/// listener.
pub(crate) fn admins_only(
    extensions: &Extensions,
    listener: &'static str,
    refusal: &'static str,
) -> Result<(), Status> {
    if caller_of(extensions).has(Role::Admin) {
        return Ok(());
    }
    Users::note_forbidden(listener);
    Err(Status::permission_denied(refusal))
}

/// What is answered to someone who is not let in: the same, whatever is wrong.
pub(crate) fn status_of(denied: Denied) -> Status {
    Status::unauthenticated(match denied {
        Denied::Missing => {
            "a credential is needed: send the header `authorization` with `Bearer TOKEN`, or \
             with `Basic` and a user and password"
        }
        Denied::Wrong => "the credential is not one of a user, or has been withdrawn",
    })
}

/// Checks the credentials of one connection's calls.
#[derive(Clone, Debug)]
pub(super) struct AuthenticateLayer {
    pub(super) users: Users,
    pub(super) origin: Origin,
}

impl<S> Layer<S> for AuthenticateLayer {
    type Service = Authenticate<S>;

    fn layer(&self, inner: S) -> Authenticate<S> {
        Authenticate {
            inner,
            users: self.users.clone(),
            origin: self.origin,
        }
    }
}

/// See [`AuthenticateLayer`].
#[derive(Clone, Debug)]
pub(super) struct Authenticate<S> {
    inner: S,
    users: Users,
    origin: Origin,
}

impl<S> Authenticate<S> {
    fn check(&self, request: &Request<Body>) -> Checking {
        let Some(header) = request.headers().get(AUTHORIZATION) else {
            let stranger = self.users.stranger();
            if stranger.is_let_in() || request.uri().path().starts_with(OPEN_TO_ALL) {
                return Checking::Done(Ok(stranger));
            }
            if !request.headers().contains_key(PROBE) {
                self.users.note_missing(self.origin);
            }
            return Checking::Done(Err(Denied::Missing));
        };
        check_credential(&self.users, header, self.origin)
    }
}

/// Checks what stands in a header `authorization`.
pub(crate) fn check_credential(users: &Users, header: &HeaderValue, origin: Origin) -> Checking {
    match Credential::parse(header) {
        Some(Credential::Bearer(token)) => Checking::Done(users.check_token(token, origin)),
        Some(Credential::Basic { name, password }) => users.check(&name, &password, origin),
        // Counted as any other wrong one.
        None => Checking::Done(users.check_token(b"", origin)),
    }
}

type Answer = Result<Response<Body>, Infallible>;

impl<S> Service<Request<Body>> for Authenticate<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Either<Ready<Answer>, BoxFuture<'static, Answer>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self.check(&request) {
            Checking::Done(Ok(caller)) => {
                request.extensions_mut().insert(caller);
                Either::Left(self.inner.call(request))
            }
            Checking::Done(Err(denied)) => {
                Either::Right(Either::Left(ready(Ok(status_of(denied).into_http()))))
            }
            Checking::Waiting(checked) => {
                // The one that is ready is taken along, a clone need not be.
                let clone = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, clone);
                let answer = async move {
                    match checked.await {
                        Ok(caller) => {
                            request.extensions_mut().insert(caller);
                            inner.call(request).await
                        }
                        Err(denied) => Ok(status_of(denied).into_http()),
                    }
                };
                Either::Right(Either::Right(answer.boxed()))
            }
        }
    }
}

/// What stands in the header.
#[derive(PartialEq, Eq, Debug)]
enum Credential<'a> {
    Bearer(&'a [u8]),
    Basic { name: Vec<u8>, password: Vec<u8> },
}

impl<'a> Credential<'a> {
    fn parse(header: &'a HeaderValue) -> Option<Self> {
        let bytes = header.as_bytes();
        let space = bytes.iter().position(|&b| b == b' ')?;
        let (scheme, rest) = (&bytes[..space], bytes[space..].trim_ascii());
        if scheme.eq_ignore_ascii_case(b"bearer") {
            return Some(Self::Bearer(rest));
        }
        if !scheme.eq_ignore_ascii_case(b"basic") {
            return None;
        }
        let decoded = base64::engine::general_purpose::STANDARD
            .decode(rest)
            .ok()?;
        let colon = decoded.iter().position(|&b| b == b':')?;
        Some(Self::Basic {
            name: decoded[..colon].to_vec(),
            password: decoded[colon + 1..].to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_http_has_them() {
        let parse = |text: &'static str| match Credential::parse(&HeaderValue::from_static(text)) {
            Some(Credential::Bearer(token)) => format!("{token:?}"),
            Some(Credential::Basic { name, password }) => {
                format!("{} {}", name.escape_ascii(), password.escape_ascii())
            }
            None => "nothing".to_owned(),
        };
        assert_eq!(parse("Bearer abc"), format!("{:?}", b"abc"));
        assert_eq!(parse("bearer  abc "), format!("{:?}", b"abc"));
        // A password may have colons.
        assert_eq!(parse("Basic YTpiOmM="), "a b:c");
        for wrong in ["", "Bearer", "Basic !!", "Basic YQ==", "Digest abc"] {
            assert_eq!(parse(wrong), "nothing", "{wrong}");
        }
    }
}
