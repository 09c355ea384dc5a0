//! The token of a workflow run: which scopes it may read, and which one it writes.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

/// What a token says of itself. Its signature is for the service to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claims {
    /// Scopes to look in, the most wanted first.
    pub(super) read: Vec<String>,
    /// The scope that entries are written to.
    pub(super) write: Option<String>,
}

#[derive(Deserialize)]
struct Payload {
    ac: String,
    exp: f64,
    nbf: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Scope {
    scope: String,
    permission: u32,
}

const WRITE: u32 = 2;

/// Reads a token; `now` in seconds since 1970.
pub(super) fn claims(token: &str, now: f64) -> Result<Claims, String> {
    let mut parts = token.split('.');
    let payload = parts.nth(1).filter(|_| parts.count() == 1).ok_or("token is no JSON Web Token")?;
    let payload = URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).map_err(|e| format!("token: {e}"))?;
    let payload: Payload =
        serde_json::from_slice(&payload).map_err(|e| format!("token lacks what it must say: {e}"))?;
    if now > payload.exp {
        return Err(format!("token expired {} s ago", (now - payload.exp).round()));
    }
    // Clocks differ a little.
    if payload.nbf.is_some_and(|from| from > now + 300.0) {
        return Err("token is for later: does the clock go wrong?".to_owned());
    }
    let scopes: Vec<Scope> =
        serde_json::from_str(&payload.ac).map_err(|e| format!("token has no list of scopes: {e}"))?;
    let write = scopes.iter().rev().find(|s| s.permission & WRITE != 0).map(|s| s.scope.clone());
    Ok(Claims { read: scopes.into_iter().map(|s| s.scope).collect(), write })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_say_their_scopes() {
        let token = |payload: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload));
        let ac =
            r#"[{\"Scope\":\"refs/heads/topic\",\"Permission\":3},{\"Scope\":\"refs/heads/main\",\"Permission\":1}]"#;
        let good = claims(&token(&format!(r#"{{"ac":"{ac}","exp":200,"nbf":50.5}}"#)), 100.0).unwrap();
        assert_eq!(good.read, ["refs/heads/topic", "refs/heads/main"]);
        assert_eq!(good.write.as_deref(), Some("refs/heads/topic"));
        for (payload, reason) in [
            (r#"{"exp":200}"#, "token lacks what it must say: missing field `ac` at line 1 column 11"),
            (r#"{"ac":"[]","exp":90}"#, "token expired 10 s ago"),
            (r#"{"ac":"[]","exp":900,"nbf":800}"#, "token is for later: does the clock go wrong?"),
        ] {
            assert_eq!(claims(&token(payload), 100.0).unwrap_err(), reason);
        }
        assert_eq!(claims("secret", 100.0).unwrap_err(), "token is no JSON Web Token");
    }
}
