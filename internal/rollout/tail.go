package rollout

import (
	"bufio"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"slipway/internal/kube"
	"slipway/internal/manifest"
)

// The bounds of the log of a Job in the log of a deployment.
const (
	tailBytes     = 16 << 20 // of one container
	tailLineBytes = 4 << 10
	// drainTime is how long the end of a log is waited for once the Job is over.
	drainTime = 10 * time.Second
)

// tail copies the logs of the pods of a Job to a printer while they are written, each line with the name of the Job. What
// the account may not read is left out, and said once.
type tail struct {
	reader  *reader
	printer *printer
	job     *unstructured.Unstructured

	ctx    context.Context // of the copies
	stop   context.CancelFunc
	over   chan struct{} // closed when no more containers will start
	once   sync.Once
	looked sync.WaitGroup // the goroutine that looks for containers
	copies sync.WaitGroup
	seen   map[string]bool // containers, by pod and name
}

func newTail(ctx context.Context, c *kube.Client, p *printer, job *unstructured.Unstructured) *tail {
	t := &tail{
		reader:  &reader{client: c, printer: p, denied: map[string]bool{}},
		printer: p, job: job, over: make(chan struct{}), seen: map[string]bool{},
	}
	t.ctx, t.stop = context.WithCancel(ctx)
	t.reader.mirrors = newMirrors(t.ctx, c)
	t.looked.Go(t.run)
	return t
}

// drain waits until all that the Job has written is copied: it is over.
func (t *tail) drain() {
	t.once.Do(func() { close(t.over) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		t.looked.Wait()
		t.copies.Wait()
	}()
	select {
	case <-done:
	case <-time.After(drainTime):
		t.stop()
		<-done
	}
}

// close ends the copying at once, and waits for that.
func (t *tail) close() {
	t.stop()
	t.drain()
	t.reader.mirrors.close()
}

// run begins to copy the log of each container that has started.
func (t *tail) run() {
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{batchController: string(t.job.GetUID())}}
	t.reader.crowds = map[crowd]int{{namespace: t.job.GetNamespace()}: 1}
	for last := false; ; {
		pods, err := ownedObjects[corev1.Pod](t.ctx, t.reader, podKind, t.job.GetNamespace(), selector, t.job.GetUID())
		if err == nil {
			for i := range pods {
				t.begin(&pods[i])
			}
		}
		if last {
			return
		}
		wait := interval
		if !t.reader.mirrors.whole() {
			wait = 4 * interval
		}
		select {
		case <-t.ctx.Done():
			return
		case <-t.over:
			last = true // a container may have run since
		case <-t.reader.mirrors.wake:
		case <-time.After(wait):
		}
	}
}

// batchController is the label of a Job's pods with its UID.
const batchController = "batch.kubernetes.io/controller-uid"

func (t *tail) begin(pod *corev1.Pod) {
	statuses := slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses)
	for _, s := range statuses {
		key := pod.Name + "/" + s.Name
		if t.seen[key] || s.State.Running == nil && s.State.Terminated == nil {
			continue
		}
		t.seen[key] = true
		prefix := t.job.GetName()
		if len(statuses) > 1 {
			prefix += "/" + s.Name
		}
		t.copies.Go(func() { t.copy(pod.Name, s.Name, prefix) })
	}
}

// copy copies the log of a container to its end. When the connection breaks it goes on with the line where it stopped.
func (t *tail) copy(pod, container, prefix string) {
	copied := 0
	for t.ctx.Err() == nil {
		stream, err := t.reader.client.Core.CoreV1().Pods(t.job.GetNamespace()).
			GetLogs(pod, &corev1.PodLogOptions{Container: container, Follow: true}).Stream(t.ctx)
		if err == nil {
			copied, err = t.lines(stream, prefix, copied)
			_ = stream.Close()
		}
		switch {
		case t.ctx.Err() != nil, errors.Is(err, errTailFull), err == nil && t.ended(pod, container):
			return
		case apierrors.IsForbidden(err):
			t.printer.linef("the log of %s is not shown: %s", manifest.Name(t.job), t.reader.client.Explain(err))
			return
		case apierrors.IsNotFound(err):
			return // the pod is gone, and its log with it
		}
		select {
		case <-t.ctx.Done():
		case <-time.After(interval):
		}
	}
}

// ended reports whether a container has ended. An API server that stops ends logs, too.
func (t *tail) ended(pod, container string) bool {
	found, err := t.reader.client.Core.CoreV1().Pods(t.job.GetNamespace()).Get(t.ctx, pod, metav1.GetOptions{})
	if err != nil {
		return !kube.Unreachable(err)
	}
	for _, s := range slices.Concat(found.Status.InitContainerStatuses, found.Status.ContainerStatuses) {
		if s.Name == container {
			return s.State.Running == nil
		}
	}
	return true
}

var errTailFull = errors.New("the log is longer than what is shown")

// lines copies the lines of a log from the one with the number skip on, and returns up to which it came. A line counts when
// it has its end.
func (t *tail) lines(log io.Reader, prefix string, skip int) (int, error) {
	r := bufio.NewReaderSize(log, tailLineBytes)
	size := 0
	for n := 0; ; n++ {
		data, err := r.ReadSlice('\n')
		size += len(data)
		text, mark := string(data), "" // the next read writes over data
		for errors.Is(err, bufio.ErrBufferFull) {
			mark = " …"
			data, err = r.ReadSlice('\n')
			size += len(data)
		}
		end := errors.Is(err, io.EOF)
		switch {
		case err != nil && !end, end && text == "":
			if end {
				err = nil
			}
			return max(n, skip), err
		case size > tailBytes:
			t.printer.linef("%s wrote more than %d MiB; the rest is not shown", prefix, tailBytes>>20)
			return n, errTailFull
		case n >= skip:
			t.printer.prefixed(prefix, clean(strings.TrimRight(strings.ToValidUTF8(text, "\ufffd"), "\r\n"))+mark)
		}
	}
}
