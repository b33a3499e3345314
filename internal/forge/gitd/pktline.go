package gitd

import (
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Git's packet lines: four hexadecimal digits that count themselves and what follows them, or one of the special
// lengths below 4, which have no content. See gitprotocol-common(5).

// maxPacket is the longest packet, its four digits included.
const maxPacket = 65520

var errPacket = errors.New("a packet of the git protocol is broken")

// flushPacket ends a list of packets.
var flushPacket = []byte("0000")

// readPacket reads one packet, with its digits, into buf, which must hold maxPacket bytes. It returns [io.EOF] only
// between packets.
func readPacket(r io.Reader, buf []byte) (packet []byte, err error) {
	if _, err := io.ReadFull(r, buf[:4]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, errPacket
		}
		return nil, err
	}
	n, err := strconv.ParseUint(string(buf[:4]), 16, 16)
	switch {
	case err != nil || n == 3 || n > maxPacket:
		return nil, errPacket
	case n < 4:
		return buf[:4], nil
	}
	if _, err := io.ReadFull(r, buf[4:n]); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, errPacket
		}
		return nil, err
	}
	return buf[:n], nil
}

// isFlush reports whether packet ends a list.
func isFlush(packet []byte) bool { return string(packet) == string(flushPacket) }

// The bands of git's side-band-64k capability.
const (
	bandData     = 1
	bandProgress = 2 // the other side's git shows it as "remote: ..."
	bandError    = 3 // the same, and the other side gives up
)

// bandWriter writes what it is given as packets of one band.
type bandWriter struct {
	w    io.Writer
	band byte
}

func (b bandWriter) Write(p []byte) (int, error) {
	const most = maxPacket - 5
	for done := 0; done < len(p); done += most {
		chunk := p[done:min(len(p), done+most)]
		packet := append(fmt.Appendf(nil, "%04x%c", len(chunk)+5, b.band), chunk...)
		if _, err := b.w.Write(packet); err != nil {
			return done, err
		}
	}
	return len(p), nil
}
