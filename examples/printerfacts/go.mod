module printerfacts

go 1.24
