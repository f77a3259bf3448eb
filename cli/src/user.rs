//! `user`: what stands in the users file of a cluster.

use cairn_node::users;
use serde_json::json;

use crate::credential::read_secret;
use crate::failure::Failure;
use crate::output::{self, Format};

/// What to make.
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum UserCommand {
    /// Make a users file's line of a password, or of a token
    Hash(HashArgs),
    /// Make a new token, and the users file's line of it
    Token,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct HashArgs {
    /// Where the secret is, `-` for standard input
    #[arg(long, short = 'f', value_name = "FILE", default_value = "-")]
    file: String,
    /// It is a token, which is long and random, and not a password
    #[arg(long)]
    token: bool,
}

pub(crate) fn run(command: &UserCommand, format: Format) -> Result<(), Failure> {
    match command {
        UserCommand::Hash(HashArgs { file, token }) => {
            let secret = read_secret(file)?;
            let (field, hash) = if *token {
                ("tokens", users::hash_token(secret.as_bytes()))
            } else {
                ("passwords", users::hash_password(secret.as_bytes()))
            };
            let hash = hash.map_err(|error| Failure::usage(format!("the secret: {error}")))?;
            match format {
                Format::Json => output::json(&json!({ field: [hash] })),
                Format::Table => output::text(&format!("{field} = [\"{hash}\"]\n")),
            }
        }
        UserCommand::Token => {
            let token = users::new_token();
            let hash = users::hash_token(token.as_bytes())
                .map_err(|error| Failure::usage(error.to_string()))?;
            match format {
                Format::Json => output::json(&json!({ "token": token, "tokens": [hash] })),
                Format::Table => output::text(&format!(
                    "{token}\n# The line above is for the client and is shown this once; the one below is for the users file.\ntokens = [\"{hash}\"]\n"
                )),
            }
        }
    }
}
