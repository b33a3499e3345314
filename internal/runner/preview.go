package runner

import (
	"context"
	"errors"
	"fmt"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/protocol"
	"slipway/internal/rollout"
)

// noForks is why there is no preview of a fork's pull request.
const noForks = "what this would change is not shown for a pull request of a fork, because finding out needs the cluster's account, which strangers' code must not get at; push the branch to this repo to see it"

// preview says what the step would change, and has the server tell it where people look.
func (s *stepRun) preview(ctx context.Context) error {
	if s.w.a.Fork { // no reason to fail: its author could not mend it
		fmt.Fprintln(s.log, noForks)
		return s.tell(ci.Preview{Environment: s.step.Deploy.Environment, Message: noForks})
	}
	step, err := s.deployment()
	if err != nil {
		return s.untold(err)
	}
	defer step.Workspace.Close()
	preview, err := rollout.Describe(ctx, step, s.log)
	if ctx.Err() != nil {
		return err
	}
	if failed := s.tell(preview); failed != nil {
		return errors.Join(err, failed)
	}
	return err
}

// untold has the server tell why there is no preview.
func (s *stepRun) untold(err error) error {
	failed := s.tell(ci.Preview{Environment: s.step.Deploy.Environment, Message: s.w.masker.Mask(fault.Of(err).Message)})
	if failed != nil {
		return errors.Join(err, failed)
	}
	return err
}

func (s *stepRun) tell(preview ci.Preview) error {
	return s.w.journal.add(protocol.Event{Preview: &protocol.Preview{Step: s.index + 1, Preview: preview}})
}
