//! The page at `/`, and the description of the interface. All of it is in the program; nothing is fetched elsewhere.

use axum::http::header;
use axum::response::IntoResponse;

/// What the page may do: run its own script and talk to this server, nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data: blob:; media-src 'self' data: blob:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text)
}

/// `GET /`.
pub async fn index() -> impl IntoResponse {
    file("text/html; charset=utf-8", include_str!("../page/index.html"))
}

/// `GET /page.css`.
pub async fn style() -> impl IntoResponse {
    file("text/css; charset=utf-8", include_str!("../page/page.css"))
}

/// `GET /page.js`.
pub async fn script() -> impl IntoResponse {
    file("text/javascript; charset=utf-8", include_str!("../page/page.js"))
}

/// `GET /markdown.js`.
pub async fn markdown() -> impl IntoResponse {
    file("text/javascript; charset=utf-8", include_str!("../page/markdown.js"))
}

/// `GET /openapi.json`.
pub async fn openapi() -> impl IntoResponse {
    file("application/json", include_str!("../openapi.json"))
}
