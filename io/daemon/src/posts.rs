//! HTTP/1.1 on one stream that is asked with a body: for those who call back, such as an API server.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::http_port::Reply;

/// A client that asks nothing, or has not sent its request line and headers, for so long is cut.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// A client that has not sent its body by then is told so.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers the body that was posted to a path, or `None` for 404.
pub type PostRoutes = dyn Fn(&str, &[u8]) -> Option<Reply> + Send + Sync;

/// Serves one connection until either side ends it. A longer body than `body_bytes_max` is refused.
pub async fn serve_posts<S>(stream: S, body_bytes_max: usize, routes: Arc<PostRoutes>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(move |request| {
        let routes = routes.clone();
        async move {
            let reply = answer(request, body_bytes_max, &*routes).await;
            Ok::<_, Infallible>(response(reply))
        }
    });
    // A client that hangs up early is no event.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(request: Request<Incoming>, body_bytes_max: usize, routes: &PostRoutes) -> Reply {
    if request.method() != Method::POST {
        return Reply::text(StatusCode::METHOD_NOT_ALLOWED, "only POST is served here\n");
    }
    let path = request.uri().path().to_owned();
    let body = Limited::new(request.into_body(), body_bytes_max).collect();
    let body = match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let text = format!("longer than {body_bytes_max} bytes\n");
            return Reply::text(StatusCode::PAYLOAD_TOO_LARGE, text);
        }
        Ok(Err(error)) => {
            return Reply::text(StatusCode::BAD_REQUEST, format!("reading the body: {error}\n"));
        }
        Err(_) => return Reply::text(StatusCode::REQUEST_TIMEOUT, "the body did not come\n"),
    };
    routes(&path, &body).unwrap_or_else(|| Reply::text(StatusCode::NOT_FOUND, "not found\n"))
}

fn response(reply: Reply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    *response.status_mut() = reply.status;
    let content_type = header::HeaderValue::from_static(reply.content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ask(request: &str) -> String {
        let (mut client, server) = tokio::io::duplex(64 * 1024);
        let routes: Arc<PostRoutes> = Arc::new(|path, body| {
            let body = String::from_utf8_lossy(body);
            (path == "/echo").then(|| Reply::text(StatusCode::OK, body))
        });
        let serving = tokio::spawn(serve_posts(server, 16, routes));
        client.write_all(request.as_bytes()).await.expect("written");
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("answered");
        serving.await.expect("served");
        answer
    }

    fn post(path: &str, body: &str) -> String {
        let length = body.len();
        format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    }

    #[tokio::test]
    async fn bodies_are_answered_within_their_bound() {
        let echo = ask(&post("/echo", "0123456789abcdef")).await;
        assert!(echo.starts_with("HTTP/1.1 200") && echo.ends_with("0123456789abcdef"), "{echo}");
        assert!(ask(&post("/echo", "0123456789abcdefg")).await.starts_with("HTTP/1.1 413"));
        assert!(ask(&post("/other", "")).await.starts_with("HTTP/1.1 404"));
        let get = "GET /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        assert!(ask(get).await.starts_with("HTTP/1.1 405"));
    }
}
