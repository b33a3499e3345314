package shim

import (
	"bytes"
	"reflect"
	"testing"
)

// FuzzCommand reads what a start file may contain. What is accepted must come out again as it went in.
func FuzzCommand(f *testing.F) {
	data, err := Command{Args: []string{"sh", "\xff"}, Env: []string{"A=\xfe"}, Dir: "/", Script: "x", User: &User{UID: 1}}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"args":["eA=="],"dir":"/","log_limit":-1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		first, err := decodeCommand(data)
		if err != nil {
			return
		}
		again, err := first.encode()
		if err != nil {
			t.Fatal(err)
		}
		second, err := decodeCommand(again)
		if err != nil {
			t.Fatalf("%v: %s", err, again)
		}
		if third, err := second.encode(); err != nil || !bytes.Equal(again, third) || !reflect.DeepEqual(first.Args, second.Args) {
			t.Errorf("%s became %s", again, third)
		}
	})
}

// FuzzExit reads what an exit file may contain, which a step can write.
func FuzzExit(f *testing.F) {
	f.Add([]byte(`{"code":137,"signal":9,"started":"2026-01-02T03:04:05Z","ended":"2026-01-02T03:04:06Z"}   `))
	f.Fuzz(func(t *testing.T, data []byte) {
		if exit, err := decodeExit(data); err == nil && (exit.Code < 0 || exit.Code > 255) {
			t.Errorf("accepted exit code %d", exit.Code)
		}
	})
}
