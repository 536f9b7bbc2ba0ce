mod asking;
mod hostile;
mod telling;
