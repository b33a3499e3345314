package fault

import (
	"errors"
	"fmt"
	"io"
	"testing"
)

func TestTable(t *testing.T) {
	seen := map[int]Code{}
	for code, row := range table {
		if other, ok := seen[row.http]; ok {
			t.Errorf("%s and %s have the same HTTP status", code, other)
		}
		seen[row.http] = code
		if FromHTTPStatus(code.HTTPStatus()) != code {
			t.Errorf("%s does not survive the way over HTTP", code)
		}
		if row.exit == 0 || row.exit > 125 {
			t.Errorf("%s exits with %d", code, row.exit)
		}
	}
	if Code("new").HTTPStatus() != 500 || Code("new").ExitCode() != 70 {
		t.Error("a code without a row must be an internal error")
	}
	for status, want := range map[int]Code{418: Invalid, 502: Internal, 404: NotFound} {
		if got := FromHTTPStatus(status); got != want {
			t.Errorf("%d is %s, want %s", status, got, want)
		}
	}
}

func TestOf(t *testing.T) {
	if Of(nil) != nil {
		t.Error("no error is no fault")
	}
	cause := New(NotFound, "no file %q: %w", "a", io.EOF)
	wrapped := fmt.Errorf("while reading: %w", cause)
	if got := Of(wrapped); got != cause || got.Message != `no file "a": EOF` || !errors.Is(wrapped, io.EOF) {
		t.Errorf("%+v", got)
	}
	secret := errors.New("password is hunter2")
	if got := Of(secret); got.Code != Internal || got.Message == secret.Error() || !errors.Is(got, secret) {
		t.Errorf("an internal error shows its inside: %+v", got)
	}
}
