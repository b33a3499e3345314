package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"slipway/internal/fault"
	"slipway/internal/manifest"
	"slipway/internal/manifest/source"
)

// workspaceFile is the descriptor by which the process gets the workspace.
const workspaceFile = 3

// maxStack is how large the stack of a goroutine may become; templates that call each other use it up.
const maxStack = 128 << 20

// Serve is the process that [Sandbox.Render] starts: it limits itself, renders what it reads from in, and writes the
// answer to out. An error means that there is no answer. It returns only to end the process: the limits stay.
func Serve(in io.Reader, out io.Writer) error {
	var r request
	if err := json.NewDecoder(in).Decode(&r); err != nil {
		return fmt.Errorf("read what to render: %w", err)
	}
	if err := limit(r); err != nil {
		return err
	}
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", workspaceFile))
	if err != nil {
		return fmt.Errorf("open the workspace: %w", err)
	}
	defer root.Close()
	r.Source.Root = root
	rendered, err := manifest.Render(context.Background(), r.Source)
	a := answer{Pins: rendered.Pins, Notes: rendered.Notes}
	for _, o := range rendered.Objects {
		a.Objects = append(a.Objects, object{Object: o.Unstructured, Origin: o.Origin})
	}
	if err != nil && !errors.As(err, &a.Problems) {
		a.Err, a.Code = err.Error(), fault.Internal
		var said *fault.Error
		if errors.As(err, &said) {
			a.Err, a.Code = said.Message, said.Code
		}
	}
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(a)
}

// limit bounds the process, and all that it does from here on.
func limit(r request) error {
	debug.SetMaxStack(maxStack)
	debug.SetMemoryLimit(int64(r.Memory) / 4 * 3) // collect garbage in earnest before it is too late
	seconds := uint64(r.Time/time.Second) + 1
	for resource, most := range map[int]uint64{
		unix.RLIMIT_DATA:  r.Memory,
		unix.RLIMIT_CPU:   seconds,
		unix.RLIMIT_FSIZE: 0,
		unix.RLIMIT_CORE:  0,
	} {
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: most, Max: most}); err != nil {
			return fmt.Errorf("limit the process: %w", err)
		}
	}
	// Whoever started this may have died.
	time.AfterFunc(r.Time+time.Second, func() { os.Exit(1) })
	// If the machine runs out of memory, this is what can be done without. It is not always allowed.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)
	return nil
}

// object is a [manifest.Object] in JSON.
type object struct {
	Object *unstructured.Unstructured
	Origin source.Position
}
