package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

func fetch(ctx context.Context, page int) (int, error) {
	select {
	case <-time.After(time.Duration(page) * 100 * time.Millisecond):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if page == 3 {
		return 0, errors.New("page 3 is gone")
	}
	return page * 10, nil
}

func main() {
	group, ctx := errgroup.WithContext(context.Background())
	group.SetLimit(4)
	results := make([]int, 8)
	for page := range 8 {
		group.Go(func() error {
			result, err := fetch(ctx, page)
			results[page] = result
			return err
		})
	}
	if err := group.Wait(); err != nil {
		fmt.Println("failed:", err)
	}
	fmt.Println("results:", results)
}
