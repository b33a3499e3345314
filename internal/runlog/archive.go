package runlog

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"slipway/internal/blob"
)

// An archived log is a gzip file that any tool can read, in members of chunkSize bytes each, so that reading from an
// offset unpacks one member and not all before it. Where the members are stands in the extra field (RFC 1952, section
// 2.3.1.1) of a last, empty member:
//
//	'S' 'L' length of the rest: uint16
//	length of the log: uint64
//	compressed length of each member: uint32
//	number of members: uint32
//
// in little-endian order. It is followed by indexEnd, so that it can be found from the end of the file.
const chunkSize = 1 << 20

var (
	indexStart = []byte{0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff}
	indexEnd   = []byte{3, 0, 0, 0, 0, 0, 0, 0, 0, 0} // an empty block, its checksum and its length
)

// fixedIndex is the length of the last member without the lengths of the others.
var fixedIndex = len(indexStart) + 2 + 4 + 8 + 4 + len(indexEnd)

// compress writes the archived form of r to w.
func compress(w io.Writer, r io.Reader) error {
	var index []byte
	var size uint64
	var members uint32
	var packed bytes.Buffer
	zip, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		return err
	}
	for {
		packed.Reset()
		zip.Reset(&packed)
		n, err := io.CopyN(zip, r, chunkSize)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n == 0 {
			break
		}
		if err := zip.Close(); err != nil {
			return err
		}
		size += uint64(n)
		members++
		index = binary.LittleEndian.AppendUint32(index, uint32(packed.Len()))
		if _, err := w.Write(packed.Bytes()); err != nil {
			return err
		}
	}
	payload := 8 + len(index) + 4
	if payload+4 > 0xffff {
		return fmt.Errorf("a log of %d bytes is too long for the archive", size)
	}
	last := bytes.Clone(indexStart)
	last = binary.LittleEndian.AppendUint16(last, uint16(4+payload))
	last = append(last, 'S', 'L')
	last = binary.LittleEndian.AppendUint16(last, uint16(payload))
	last = binary.LittleEndian.AppendUint64(last, size)
	last = append(last, index...)
	last = binary.LittleEndian.AppendUint32(last, members)
	last = append(last, indexEnd...)
	_, err = w.Write(last)
	return err
}

// archived is an open archived log. It is for one goroutine.
type archived struct {
	blob blob.Blob
	size int64
	// starts has where each member begins, and where the last one ends.
	starts []int64
	// chunk is the unpacked member of number loaded.
	chunk  []byte
	loaded int64
}

var errNotArchive = errors.New("it is not an archived log, or it is damaged; restore it from a backup")

// openArchived opens an archived log, or says [blob.ErrNotFound].
func openArchived(ctx context.Context, store blob.Store, key string) (*archived, error) {
	b, err := store.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	a, err := readIndex(b)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("blob %s: %w", key, err), b.Close())
	}
	return a, nil
}

// readIndex reads the last member of an archived log.
func readIndex(b blob.Blob) (*archived, error) {
	tail := make([]byte, 4+len(indexEnd))
	if b.Size() < int64(fixedIndex) {
		return nil, errNotArchive
	}
	if _, err := b.ReadAt(tail, b.Size()-int64(len(tail))); err != nil {
		return nil, err
	}
	members := int64(binary.LittleEndian.Uint32(tail))
	indexLen := int64(fixedIndex) + 4*members
	if !bytes.Equal(tail[4:], indexEnd) || members > 0xffff/4 || indexLen > b.Size() {
		return nil, errNotArchive
	}
	last := make([]byte, indexLen)
	if _, err := b.ReadAt(last, b.Size()-indexLen); err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(last, indexStart) || !bytes.Equal(last[12:14], []byte("SL")) {
		return nil, errNotArchive
	}
	a := &archived{blob: b, size: int64(binary.LittleEndian.Uint64(last[16:])), starts: []int64{0}, loaded: -1}
	for i := range members {
		length := binary.LittleEndian.Uint32(last[24+4*i:])
		a.starts = append(a.starts, a.starts[i]+int64(length))
	}
	if a.starts[members] != b.Size()-indexLen || a.size < 0 || (a.size+chunkSize-1)/chunkSize != members {
		return nil, errNotArchive
	}
	return a, nil
}

// ReadAt implements [io.ReaderAt].
func (a *archived) ReadAt(p []byte, offset int64) (n int, err error) {
	for n < len(p) {
		if offset < 0 || offset >= a.size {
			return n, io.EOF
		}
		member := offset / chunkSize
		if member != a.loaded {
			if err := a.load(member); err != nil {
				return n, err
			}
		}
		copied := copy(p[n:], a.chunk[offset-member*chunkSize:])
		n += copied
		offset += int64(copied)
	}
	return n, nil
}

func (a *archived) load(member int64) error {
	start, end := a.starts[member], a.starts[member+1]
	zip, err := gzip.NewReader(io.NewSectionReader(a.blob, start, end-start))
	if err != nil {
		return errors.Join(errNotArchive, err)
	}
	want := min(chunkSize, a.size-member*chunkSize)
	if a.chunk == nil {
		a.chunk = make([]byte, 0, want)
	}
	buffer := bytes.NewBuffer(a.chunk[:0])
	n, err := io.Copy(buffer, io.LimitReader(zip, chunkSize+1)) // to its end, where the checksum is
	if err != nil || n != want {
		a.loaded = -1
		return errors.Join(errNotArchive, err)
	}
	a.chunk, a.loaded = buffer.Bytes(), member
	return nil
}

// Close implements [io.Closer].
func (a *archived) Close() error { return a.blob.Close() }
