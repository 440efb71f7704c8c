MARK = !
