package runner

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		over := make(chan time.Duration, 1)
		l := newLimit(start.Add(time.Minute), func() { over <- time.Since(start) })
		time.Sleep(50 * time.Second)
		one, two := l.pause(), l.pause()
		time.Sleep(time.Hour)
		one()
		time.Sleep(time.Hour)
		two()
		if got, want := <-over, time.Minute+2*time.Hour; got != want {
			t.Errorf("over after %s, want %s", got, want)
		}
		l = newLimit(time.Now().Add(time.Minute), func() { t.Error("it was stopped") })
		l.stop()
		time.Sleep(time.Hour)
	})
}

func TestSeats(t *testing.T) {
	s := newSeats(1, 2) // one too many: the first that ends makes no room
	s.taken <- struct{}{}
	s.taken <- struct{}{}
	s.free()
	if len(s.taken) != 2 {
		t.Errorf("%d seats are taken, want 2", len(s.taken))
	}
	back := s.lend()
	if len(s.taken) != 1 {
		t.Errorf("%d seats are taken while one waits, want 1", len(s.taken))
	}
	s.taken <- struct{}{} // another job
	back()
	s.free()
	if len(s.taken) != 2 {
		t.Errorf("%d seats are taken, want 2", len(s.taken))
	}
	s.free()
	if len(s.taken) != 1 {
		t.Errorf("%d seats are taken, want 1", len(s.taken))
	}
}
