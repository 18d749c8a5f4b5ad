//! Echo servers: lines over TCP, datagrams over UDP.

use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::UdpSocket,
};

use super::Listener;
use nodegate_testbed::pod::Container;

/// Accepts connections and answers each line with the container's second argument before it.
pub(super) async fn serve_tcp(mut listener: Listener, container: &Container) {
    let word = container.args.get(1).cloned().unwrap_or_default();
    while let Some((stream, _)) = listener.accept().await {
        // Each line is answered as soon as it is there.
        let _ = stream.set_nodelay(true);
        let word = word.clone();
        tokio::task::spawn_local(async move {
            let (read, write) = stream.into_split();
            // The peer has gone away: nobody is left to tell.
            let _ = answer_lines(read, write, &word).await;
        });
    }
}

/// Answers lines until the peer sends no more, the last one even without a newline.
async fn answer_lines(
    read: impl AsyncRead + Unpin,
    mut write: impl AsyncWrite + Unpin,
    word: &str,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(read);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).await? > 0 {
        let answer = [word.as_bytes(), b" ", &line].concat();
        write.write_all(&answer).await?;
        line.clear();
    }
    write.shutdown().await
}

/// Answers each datagram with the name before it.
pub(super) async fn serve_udp(socket: UdpSocket, name: String) {
    let mut buffer = vec![0; 65536];
    loop {
        // An error here is an ICMP message about an earlier answer: the next datagram is unharmed.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let answer = [name.as_bytes(), b" ", &buffer[..length]].concat();
        let _ = socket.send_to(&answer, peer).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn every_line_is_answered_and_the_last_one_after_a_half_close() {
        let (client, server) = tokio::io::duplex(64);
        let (read, write) = tokio::io::split(server);
        let (mut from, mut to) = tokio::io::split(client);
        let talk = async {
            to.write_all(b"first\n").await.unwrap();
            let mut first = [0; 10];
            from.read_exact(&mut first).await.unwrap();
            assert_eq!(&first, b"one first\n");
            to.write_all(b"last").await.unwrap();
            to.shutdown().await.unwrap();
            let mut rest = Vec::new();
            from.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"one last");
        };
        let (answered, ()) = tokio::join!(answer_lines(read, write, "one"), talk);
        answered.unwrap();
    }
}
