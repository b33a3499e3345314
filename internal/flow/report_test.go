package flow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"slipway/internal/ci"
	"slipway/internal/forge"
)

// teller is a reporter on the clock of synctest, and what it told.
type teller struct {
	*reporter
	hang bool // attempts last until their context ends

	mu   sync.Mutex
	told []string
	err  error
}

// fail lets attempts fail from now on, or succeed if err is nil.
func (s *teller) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func newTeller() *teller {
	s := &teller{}
	s.reporter = newReporter(statuses(func(ctx context.Context, run ci.Run) error {
		if s.hang {
			<-ctx.Done()
			return ctx.Err()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.err == nil {
			s.told = append(s.told, fmt.Sprintf("%d %s", run.Number, run.Status))
		}
		return s.err
	}), slog.New(slog.DiscardHandler))
	return s
}

func state(number int64, status ci.Status) ci.Run {
	return ci.Run{ID: number, Repo: "ada/engine", Number: number, Status: status, Event: ci.Event{Kind: ci.Push, After: "abc"}}
}

func TestReporter(t *testing.T) {
	for _, test := range []struct {
		name string
		do   func(*teller)
		want []string
	}{
		{"each state once", func(s *teller) {
			for _, status := range []ci.Status{ci.Pending, ci.Running, ci.Success} {
				s.put(state(1, status))
				synctest.Wait()
			}
		}, []string{"1 pending", "1 running", "1 success"}},
		{"the newest state wins where the forge is away", func(s *teller) {
			s.fail(errors.New("no answer"))
			s.put(state(1, ci.Pending))
			time.Sleep(30 * time.Second)
			s.put(state(1, ci.Running))
			time.Sleep(5 * time.Minute)
			s.put(state(1, ci.Success))
			synctest.Wait()
			s.fail(nil)
			time.Sleep(time.Minute)
		}, []string{"1 success"}},
		{"a newer state is told at once", func(s *teller) {
			s.fail(errors.New("no answer"))
			s.put(state(1, ci.Running))
			time.Sleep(3 * time.Minute) // the next attempt is most of a minute away
			s.fail(nil)
			s.put(state(1, ci.Success))
			synctest.Wait()
		}, []string{"1 success"}},
		{"the newest run wins", func(s *teller) {
			s.fail(errors.New("no answer"))
			s.put(state(2, ci.Success))
			synctest.Wait()
			s.put(state(1, ci.Failure))
			s.fail(nil)
			time.Sleep(time.Minute)
		}, []string{"2 success"}},
		{"a refusal is not repeated", func(s *teller) {
			s.fail(forge.ErrDenied)
			s.put(state(1, ci.Success))
			synctest.Wait()
			s.fail(nil)
			time.Sleep(time.Hour)
		}, nil},
		{"a forge that is gone for good is given up", func(s *teller) {
			s.fail(errors.New("no answer"))
			s.put(state(1, ci.Success))
			time.Sleep(reportTime + time.Minute)
			s.fail(nil)
			time.Sleep(time.Hour)
		}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTeller()
				test.do(s)
				s.close(t.Context())
				if !slices.Equal(s.told, test.want) {
					t.Errorf("the forge was told %q, want %q", s.told, test.want)
				}
			})
		})
	}
}

// Closing waits for what is on its way, but not for what fails, and not for ever.
func TestReporterClose(t *testing.T) {
	for _, hang := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newTeller()
			s.hang, s.err = hang, errors.New("no answer") // nobody else has it yet
			s.put(state(1, ci.Success))
			synctest.Wait()
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			s.close(ctx)
			if took := time.Since(began); hang != (took == 5*time.Second) { // on synctest's clock this is exact
				t.Errorf("hanging %t, it took %s", hang, took)
			}
			s.put(state(1, ci.Failure)) // nothing, and no panic
		})
	}
}

func TestDescribe(t *testing.T) {
	now := time.Now()
	for want, run := range map[string]ci.Run{
		"run 7 waits for a runner":    {Number: 7, Status: ci.Pending},
		"run 7 is running":            {Number: 7, Status: ci.Running},
		"run 7 succeeded in 3s":       {Number: 7, Status: ci.Success, Started: now, Finished: now.Add(3 * time.Second)},
		"run 7: failure: it broke":    {Number: 7, Status: ci.Failure, Message: "it broke\nand more"},
		"run 7: canceled":             {Number: 7, Status: ci.Canceled},
		"run 7: error: .drone.yml:1:": {Number: 7, Status: ci.Error, Message: ".drone.yml:1:2: no"},
	} {
		if got := describe(run); !strings.HasPrefix(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
