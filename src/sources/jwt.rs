//! JSON Web Tokens (<https://www.rfc-editor.org/rfc/rfc7519>), as far as issuers want them signed by us, and tell by
//! them when they expire.

use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

/// Signs a token with an RSA key in PEM (`RS256`), PKCS #1 or #8.
///
/// # Errors
///
/// If the key cannot be used. The text has nothing of it.
pub(super) fn sign(
    header: &impl Serialize,
    claims: &impl Serialize,
    key: &SecretString,
) -> Result<SecretString, &'static str> {
    let key = match PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes()) {
        Ok(PrivateKeyDer::Pkcs1(key)) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
        Ok(PrivateKeyDer::Pkcs8(key)) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
        Ok(_) => return Err("the key is no RSA key"),
        Err(_) => return Err("the key is no PEM with a private key that is not encrypted"),
    };
    let key = key.map_err(|_| "the key is no RSA key, or a broken one")?;
    let part = |part: Result<Vec<u8>, serde_json::Error>| {
        part.map(|part| URL_SAFE_NO_PAD.encode(part)).map_err(|_| "what is to be signed is no JSON")
    };
    let [header, claims] = [part(serde_json::to_vec(header))?, part(serde_json::to_vec(claims))?];
    let text = format!("{header}.{claims}");
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text.as_bytes(), &mut signature)
        .map_err(|_| "the key cannot sign")?;
    Ok(SecretString::from(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))))
}

/// When a token expires, by its own claim; its signature is its registry's business. `None` if it is no such token,
/// or does not say.
pub(super) fn expiry(token: &SecretString) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    let mut parts = token.expose_secret().split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    let Claims { exp } = serde_json::from_slice(&claims).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(exp).ok()?)
}

/// Seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_when_it_expires() {
        let token = |claims: &str| {
            SecretString::from(format!("e30.{}.signature", URL_SAFE_NO_PAD.encode(claims)))
        };
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(expiry(&token("{\"exp\":1700000000}")), at(1_700_000_000));
        assert_eq!(expiry(&token("{\"exp\":1700000000.0,\"iat\":1}")), at(1_700_000_000));
        for claims in ["{}", "{\"exp\":\"soon\"}", "{\"exp\":-1}", "{\"exp\":1e300}", "no JSON"] {
            assert_eq!(expiry(&token(claims)), None, "{claims}");
        }
        for text in ["", "a.b", "a.b.c", "a.e30.c.d", "ghs_not-a-jwt"] {
            assert_eq!(expiry(&SecretString::from(text)), None, "{text}");
        }
    }

    #[test]
    fn a_key_that_cannot_be_used_is_not_shown() {
        for key in [
            "canary",
            "-----BEGIN PRIVATE KEY-----\nY2FuYXJ5\n-----END PRIVATE KEY-----\n",
            "-----BEGIN EC PRIVATE KEY-----\nY2FuYXJ5\n-----END EC PRIVATE KEY-----\n",
        ] {
            let error = sign(&"{}", &"{}", &SecretString::from(key)).unwrap_err();
            assert!(error.contains("key") && !error.contains("canary"), "{error}");
        }
    }
}
